"""PartialMask masks on disk: an indexed PNG for every picture, and a manifest that says how they were made and what they hold.

A PNG is named by a digest of its picture's name and written atomically, so a killed mining goes on where it was, several
processes share the work, and removed or added pictures cost nothing. The words that a picture says something about (its active
set) are written into the PNG itself.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from rich.progress import Progress
from torch import Tensor

from common.distributed import rank_and_world
from common.errors import UserError
from common.files import atomic_path
from methods.freeseg.mining import IGNORED, PartialMask
from methods.zeroseg.view_cache import NamedImages, image_batches

ACTIVE = "active words"


class MinedMasks:
    """See the module.

    Args:
        folder: of the masks.
        settings: what they depend on besides the pictures: words, map, rules.
        palette: (Q, 3) uint8 colours of the words.

    Raises:
        UserError: the folder holds masks of other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], palette: np.ndarray) -> None:
        self.folder, self.settings = folder, settings
        self.palette = np.zeros((256, 3), np.uint8)
        self.palette[: len(palette)] = palette
        self.palette[IGNORED] = 255
        manifest = folder / "manifest.json"
        if manifest.exists():
            found = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
            if differs := [key for key in settings if found.get(key) != settings[key]]:
                key = differs[0]
                raise UserError(
                    f"the masks in '{folder}' were mined with {key} {found.get(key)}, not {settings[key]}. Give another "
                    "--model.masks folder, or delete this one."
                )
        else:
            self._write_manifest({})

    def fill(
        self,
        pictures: NamedImages,
        mine: Callable[[Tensor], list[PartialMask]],
        workers: int,
        barrier: Callable[[], Any],
    ) -> dict[str, Any]:
        """Mines what is missing, shared among the processes; returns the statistics that the manifest also holds."""
        names = [pictures.name(i) for i in range(len(pictures))]
        rank, world = rank_and_world()
        missing = [i for i in range(len(names))[rank::world] if not self._file(names[i]).exists()]
        with Progress(disable=rank != 0) as progress:
            task, at = progress.add_task("masks", total=len(missing)), 0
            for images in image_batches(pictures, np.array(missing, np.int64), workers):
                for mined in mine(images):
                    self._write(names[missing[at]], mined)
                    at += 1
                progress.advance(task, len(images))
        barrier()
        statistics = self._statistics(names)
        if rank == 0:
            self._write_manifest(statistics)
        return statistics

    def read(self, name: str) -> PartialMask:
        """The mask of a picture.

        Raises:
            UserError: none, or a damaged one.
        """
        file = self._file(name)
        try:
            content = io.BytesIO(file.read_bytes())
            with Image.open(content) as image:
                image.verify()  # the checksums, which reading passes over
            with Image.open(content) as image:
                active = [digit == "1" for digit in image.info[ACTIVE]]
                return PartialMask(torch.from_numpy(np.array(image)), torch.tensor(active))
        except (OSError, KeyError, SyntaxError) as error:
            raise UserError(
                f"mined mask '{file}' of '{name}' cannot be read ({error}). Delete it; it is then mined again."
            ) from error

    def _file(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
        return self.folder / digest[:2] / f"{digest}.png"

    def _write(self, name: str, mined: PartialMask) -> None:
        image = Image.fromarray(mined.labels.cpu().numpy(), "P")
        image.putpalette(self.palette.tobytes())
        note = PngImagePlugin.PngInfo()
        note.add_text(ACTIVE, "".join("1" if word else "0" for word in mined.active.tolist()))
        note.add_text("picture", name)
        with atomic_path(self._file(name)) as path:
            image.save(path, format="PNG", pnginfo=note)

    def _statistics(self, names: list[str]) -> dict[str, Any]:
        counts, labelled, empty = np.zeros(256, np.int64), [], 0
        for name in names:
            found = np.bincount(self.read(name).labels.numpy().ravel(), minlength=256)
            counts += found
            labelled.append(1 - found[IGNORED] / found.sum())
            empty += int(labelled[-1] == 0)
        words = self.settings["words"]
        pixels = {word: int(counts[i]) for i, word in enumerate(words)}
        return {
            "pictures": len(names),
            "pictures without a label": empty,
            "labelled share": float(np.mean(labelled)) if labelled else 0.0,
            "pixels": pixels,
            "never found": [word for word, count in pixels.items() if not count],
        }

    def _write_manifest(self, statistics: dict[str, Any]) -> None:
        with atomic_path(self.folder / "manifest.json") as path:
            path.write_text(json.dumps({"settings": self.settings, **statistics}, indent=1), encoding="utf-8")
