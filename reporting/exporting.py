"""``predict --export``: keeps the regions of each picture on disk as it comes, and writes the formats from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.callbacks import Callback

from common.distributed import barrier, is_padding_sample, rank_and_world
from common.errors import UserError
from common.files import atomic_folder, writable_folder
from reporting.exports import FORMATS
from reporting.exports.records import Annotations
from reporting.exports.regions import RegionRules, annotated_picture

FOLDER = "exports"


@dataclass(frozen=True)
class Exports:
    """What was asked for: names of formats, and what a region is."""

    formats: tuple[str, ...]
    rules: RegionRules


class SaveExports(Callback):
    """Writes ``exports/FORMAT``, whole or not at all, after everything else that ``predict`` writes.

    One picture is in memory at a time, however many there are.
    """

    def __init__(self, folder: Path, exports: Exports) -> None:
        self.folder = folder
        self.exports = exports
        self.kept: TextIO | None = None

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Says what stands against a format before the first picture is segmented."""
        data = trainer.datamodule
        if data.predicts != "pictures":
            raise UserError(f"--export describes whole pictures, not {data.predicts}; leave it away. docs/films_and_tiles.md")
        names = [str(file.relative_to(data.root)) for file in data.files]
        for name in self.exports.formats:
            FORMATS[name]().check(pl_module.vocabulary, names)
        self.kept = self._kept_by(rank_and_world()[0], writable_folder(self.folder)).open("w", encoding="utf-8")

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert self.kept is not None
        for index, name, result in zip(batch["index"], batch["name"], outputs, strict=True):
            if is_padding_sample(index) or result is None:
                continue
            picture = annotated_picture(index, name, result, pl_module.vocabulary, self.exports.rules)
            try:
                print(picture.to_line(), file=self.kept, flush=True)
            except OSError as error:
                raise UserError(f"cannot write '{self.kept.name}': {error.strerror}. Choose another output folder.") from error

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.kept is not None
        self.kept.close()
        barrier()  # every process has kept all of its pictures
        if not trainer.is_global_zero:
            return
        files = tuple(self._kept_by(rank, self.folder) for rank in range(rank_and_world()[1]))
        annotations = Annotations(files, trainer.datamodule.root, pl_module.vocabulary, self.exports.rules.instances)
        try:
            for name in self.exports.formats:
                print(f"exported to {write_format(name, annotations, self.folder)}")
        finally:
            for file in files:
                file.unlink(missing_ok=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.kept is not None:
            Path(self.kept.name).unlink(missing_ok=True)

    @staticmethod
    def _kept_by(rank: int, folder: Path) -> Path:
        return folder / f".regions-{rank}.jsonl"


def write_format(name: str, annotations: Annotations, folder: Path) -> Path:
    """Writes ``exports/NAME`` below the folder, whole or not at all; returns where."""
    path = folder / FOLDER / name
    with atomic_folder(path) as made:
        FORMATS[name]().write(annotations, made)
    return path
