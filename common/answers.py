"""What light commands say of the code, remembered until a file of it changes: finding it out imports every library."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.files import ROOT, atomic_path, cache_folder, walk

FOLDERS = ("backbones", "commands", "common", "configs", "datamodules", "evaluation", "methods", "reporting")


def remembered(name: str, find_out: Callable[[], str]) -> str:
    """The text that ``find_out`` gives, from the cache if the code is as it was then; what is damaged there is found out anew.

    Args:
        name: of the question.
        find_out: what answers it.
    """
    path = cache_folder("answers", f"{name}-{state_of_the_code()}.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_bytes())
        if kept["digest"] == _digest(kept["text"]):
            return str(kept["text"])
    text = find_out()
    with contextlib.suppress(UserError), atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"digest": _digest(text), "text": text}), encoding="utf-8")
    return text


def state_of_the_code() -> str:
    """A digest of path, size and time of every Python and YAML file."""
    files = []
    for folder in FOLDERS:
        for where, _, names in walk(ROOT / folder):
            for name in names:
                if name.endswith((".py", ".yaml")):
                    stat = Path(where, name).stat()
                    files.append((where, name, stat.st_size, stat.st_mtime_ns))
    return _digest(json.dumps(sorted(files)))[:24]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
