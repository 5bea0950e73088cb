"""The path of ImageNet in small: tar shards are indexed, every picture's views are embedded, killed half-way, and gone on with.

``python -m benchmarks.rehearsal [PICTURES]``; 20,000 unless said. Pictures are JPEGs of 256 px, each another one; the teacher
is the tiny CLIP, with five views a picture.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before what imports torchvision)

import numpy as np
from PIL import Image

from benchmarks.timing import status_mib
from common.records import SHARD
from datamodules import DATAMODULES
from methods import METHODS
from methods.per_image import Squares, array_bytes, image_batches

PICTURES, TAR, SIDE = 20_000, 1_000, 256
GRIDS = [1, 2]


def write_tars(folder: Path, pictures: int) -> str:
    """Coarse noise, enlarged; returns the shards' pattern."""
    rng = np.random.default_rng(0)
    for start in range(0, pictures, TAR):
        with tarfile.open(folder / f"{start // TAR:05}.tar", "w") as tar:
            for number in range(start, min(start + TAR, pictures)):
                noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
                stream = io.BytesIO()
                noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
                entry = tarfile.TarInfo(f"{number:08}.jpg")
                entry.size = stream.tell()
                stream.seek(0)
                tar.addfile(entry, stream)
    return str(folder / f"{{00000..{(pictures - 1) // TAR:05}}}.tar")


def fill(tars: str, cache: str) -> dict[str, Any]:
    """Indexes, and embeds what is missing; what it took, and how many of the first and the last shard are not as made anew."""
    before, started = status_mib("VmRSS"), time.perf_counter()
    data = DATAMODULES["UnlabeledImages"](tars, size=64, num_workers=1)
    images: Any = data.train_dataloader().dataset
    pictures = len(images.contents())
    found = {"index_s": time.perf_counter() - started, "index_mib": status_mib("VmRSS") - before}
    model: Any = METHODS["ZeroSeg"](grids=GRIDS, cache=cache)
    started = time.perf_counter()
    model.teacher.prepare(images, 1, cache, "32", nullcontext)
    found |= {"fill_s": time.perf_counter() - started, "peak_mib": status_mib("VmHWM"), "wrong": 0}
    found["bytes"] = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    for start in (0, (pictures - 1) // SHARD * SHARD):
        shard = range(start, min(start + SHARD, pictures))
        anew = [one for batch in image_batches(Squares(images), shard, 1) for one in array_bytes(model.teacher.embed(batch))]
        found["wrong"] += sum(a != b for a, b in zip(model.teacher.kept.read(shard, lambda missing: []), anew, strict=True))
    return found


def decode(tars: str) -> float:
    """Seconds of reading and decoding alone, by as many loader processes."""
    images = Squares(DATAMODULES["UnlabeledImages"](tars, size=64).train_dataloader().dataset)
    started = time.perf_counter()
    for _ in image_batches(images, range(len(images)), 1):
        pass
    return time.perf_counter() - started


def in_a_process(tars: str, cache: Path, killed_at: int = 0) -> dict[str, Any]:
    """:func:`fill` elsewhere, killed when so many shards of views are there."""
    run = subprocess.Popen([sys.executable, "-m", "benchmarks.rehearsal", tars, str(cache)], stdout=subprocess.PIPE, text=True)
    while killed_at and len(list(cache.rglob("*.safetensors"))) < killed_at and run.poll() is None:
        time.sleep(0.05)
    if killed_at:
        run.kill()
    said = run.communicate()[0]
    return {} if killed_at else dict(json.loads(said.splitlines()[-1]))


def rehearse(folder: Path, pictures: int) -> None:
    tars, half = write_tars(folder, pictures), max(1, pictures // SHARD // 2)
    in_a_process(tars, folder / "views", half)
    rest = in_a_process(tars, folder / "views")
    print(f"{pictures} pictures in tar shards; one loader process reads and decodes them in {decode(tars):.0f} s")
    print(f"index: {rest['index_s']:.1f} s, {rest['index_mib']:.0f} MiB")
    rate, size = (pictures - half * SHARD) / rest["fill_s"], rest["bytes"] / pictures
    print(f"killed after {half} shards; the rest in {rest['fill_s']:.0f} s, {rate:.0f} pictures a second")
    print(f"{size:.0f} bytes a picture; the process held {rest['peak_mib']:.0f} MiB at most")
    print(
        f"of the first shard, from before the kill, and the last {rest['wrong']} pictures differ from views that are made anew"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(fill(*sys.argv[1:])))
    else:
        with tempfile.TemporaryDirectory() as place:
            rehearse(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
