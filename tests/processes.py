"""Programs in processes of their own that need not import torch again: each is forked from a server that has.

What only a fresh interpreter shows (imports, Lightning's own launcher) is tested with :mod:`subprocess`.
"""

import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])


class Started:
    """A running ``python PROGRAM ARGUMENTS``, with the part of :class:`subprocess.Popen` that tests need.

    Args:
        program: a script (``cli.py``) or a module (``-m``, name).
        environment: over that of the tests.
        before: a function of a module that the process calls first, such as to patch something.
    """

    def __init__(
        self, *program: str, environment: dict[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> None:
        self.program = program
        self.folder = tempfile.TemporaryDirectory(prefix="zerolabel-test-")  # removed with this object
        self.out, self.err = (Path(self.folder.name, name) for name in ("out", "err"))
        for file in self.out, self.err:
            file.touch()
        whole = os.environ | (environment or {})
        self.process = FORKS.Process(target=_run, args=(program, whole, str(self.out), str(self.err), before))
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        return self.err.read_text()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, sent: signal.Signals) -> None:
        os.kill(self.pid, sent)

    def says(self, pattern: str) -> str:
        """The first group of a pattern in what it prints, once it is there."""
        while (found := re.search(pattern, self.stdout)) is None:
            assert self.poll() is None, self.stderr
            time.sleep(0.02)
        return found[1]

    def wait(self, timeout: float) -> int:
        """Its exit code; it is killed after so many seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(list(self.program), timeout, self.stdout, self.stderr)
        return self.process.exitcode

    def done(self, timeout: float = 200) -> "Started":
        """Itself, once it has ended well."""
        assert self.wait(timeout) == 0, self.stderr[-3000:]
        return self


def run(*program: str, ranks: int = 1) -> list[Started]:
    """A program run to its good end; on several ranks as ``torchrun`` would start them."""
    port = str(free_port())
    world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)] if ranks > 1 else [{}]
    return [started.done() for started in [Started(*program, environment=place) for place in places]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _run(program: tuple[str, ...], environment: dict[str, str], out: str, err: str, before: Callable[[], None] | None) -> None:
    """In the forked process: becomes the program, the head of a session of its own."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of its loader processes: Linux's own
    for stream, path in (1, out), (2, err):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, signal.default_int_handler if sent is signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    if before is not None:
        before()
    if program[0] == "-m":
        sys.argv = list(program[1:])
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(program)
        runpy.run_path(program[0], run_name="__main__")
