"""``zerolabel serve``: a page on this machine that segments pictures; the page itself is in :mod:`commands.serving`."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from common.errors import UserError, how_to_install
from common.stopping import end_soon, stopped_by

HOST = "127.0.0.1"  # never another: the page knows no users
PORT = 8000
SECONDS_TO_END = 2  # that a request which is under way has, once the page is stopped
USAGE = f"""usage: zerolabel serve [--port N] [--config FILE ...] [--model.option VALUE ...] [--ckpt_path FILE]

Opens a page at http://{HOST}:{PORT}/ where you drop pictures, type words, look at the label maps, and download them and
their exports. Nothing leaves this machine. Ctrl-C stops it and removes its temporary files.

  --port N          of this machine (default: {PORT}; 0: any that is free)
  --config FILE     a method as for predict, also with --model options and --ckpt_path; it comes first on the page's menu.
                    The menu has the packaged tower, which comes first otherwise, and what else has its weights here.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See zerolabel serve --help.")


def run(arguments: list[str]) -> int:
    """Serves the page until it is stopped."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    parser = _Parser(prog="zerolabel serve", add_help=False, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=PORT)
    options, of_a_method = parser.parse_known_args(arguments)
    require("starlette", "uvicorn")
    with listening(options.port) as at:
        from commands.quiet import quiet  # here, so that help and mistakes answer at once
        from commands.serving.app import application
        from commands.serving.menu import menu, offline
        from commands.serving.work import Workplace

        quiet()
        choices = menu(of_a_method)
        try:
            with tempfile.TemporaryDirectory(prefix="zerolabel-serve-") as folder, Workplace(Path(folder), choices) as work:
                work.model.of(choices[0])  # a mistake in its options ends the command, and the first picture need not wait
                offline()
                print(f"open http://{HOST}:{at.getsockname()[1]}/ in a browser; Ctrl-C stops it", flush=True)
                server(application(work)).run(sockets=[at])
        except KeyboardInterrupt as error:
            end_soon(128 + (stopped_by(error) or 0))  # a thread that segments a picture hears nothing
            raise
    return 0


def require(*packages: str) -> None:
    """Raises UserError if one of the extra's packages is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"package '{package}' is not installed; serve needs it: {how_to_install('serve')}")


def listening(port: int) -> socket.socket:
    """A socket of this machine alone.

    Raises:
        UserError: no such port, one that is taken, or one that only root may have.
    """
    at = socket.socket()
    at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        at.bind((HOST, port))
        at.listen()
    except (OSError, OverflowError) as error:
        at.close()
        reason = getattr(error, "strerror", None) or "a port is a number from 0 to 65535"
        raise UserError(f"port {port} cannot be had: {reason}. Name another, such as --port {PORT + 80}, or 0.") from error
    return at


def server(application: Any) -> Any:
    """What answers until Ctrl-C or SIGTERM, which then go on to :func:`cli.main`."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            application,
            log_level="critical",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=64,
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
    )
