"""The command line's help against importing what it could have imported (torch, lightning, open_clip)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Ratio, paired


def run() -> Iterator[Ratio]:
    def python(*arguments: str) -> object:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    everything = "import torchvision_compat, torch, lightning, open_clip"
    yield paired(
        "--help against importing its libraries", lambda: python("cli.py", "--help"), lambda: python("-c", everything), 3
    )
