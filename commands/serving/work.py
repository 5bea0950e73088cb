"""What the page has done: the one model in memory, and on disk each run's pictures, label maps and exports."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
import zipfile
from collections import OrderedDict
from itertools import count
from pathlib import Path
from typing import Any

import common.compat  # noqa: F401  (must come before lightning)

import torch

from commands.export_options import exports_of
from commands.serving.menu import Choice
from commands.trained import build_trained
from common.arguments import taken
from common.batch import to_unit
from common.errors import UserError, known
from common.images import SUFFIXES, read_image
from evaluation.label_map import LabelMap
from evaluation.protocol import Protocol
from evaluation.vocabulary import Vocabulary
from methods import Segmenter
from reporting.exporting import Exports, write_format
from reporting.exports import FORMATS
from reporting.exports.records import Annotations
from reporting.exports.regions import annotated_picture
from reporting.predictions import save_picture, save_rows

MAX_PICTURES = 200  # of a run
MAX_BYTES = 64_000_000  # of a picture's file; its pixels are bounded where it is read
RUNS_KEPT = 3
LONGEST_NAME = 120  # characters of a picture's name, to which ends and temporary names are added
DATA = '--data={"class_path": "Shapes", "init_args": {"vocabulary": "shapes12"}}'  # there must be some; nobody reads it
LABELS = "labels"
DOWNLOADS = (LABELS, *(name for name, of in FORMATS.items() if of.places != "absolute"))  # those name this machine's folders


class OneModel:
    """At most one model in memory, and one picture at a time through it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.choice: Choice | None = None
        self.model: Segmenter | None = None
        self.asked: Vocabulary | None = None

    def of(self, choice: Choice, vocabulary: Vocabulary | None = None) -> Segmenter:
        """The model of a choice, asked for a vocabulary; only for who holds the lock.

        Raises:
            UserError: it cannot be made, or cannot be asked for these words.
        """
        if self.model is None or choice != self.choice:
            self.model = self.asked = None
            gc.collect()  # before the other comes
            self.model, self.choice = load(list(choice.options)), choice
        if vocabulary is not None and vocabulary != self.asked:
            self.asked = None
            self.model.use_vocabulary(vocabulary)
            self.asked = vocabulary
        return self.model


class Run:
    """One question, a method and some words, and its answers for the pictures that came so far.

    Its folder has ``pictures``, and in ``out`` what ``predict`` writes.
    """

    def __init__(self, folder: Path, choice: Choice, vocabulary: Vocabulary, protocol: Protocol, exports: Exports) -> None:
        self.folder, self.choice, self.vocabulary, self.protocol, self.exports = folder, choice, vocabulary, protocol, exports
        self.pictures, self.out, self.regions = folder / "pictures", folder / "out", folder / "regions.jsonl"
        self.pictures.mkdir(parents=True)
        self.names: list[str] = []  # also of those that turn out to be unreadable
        self.rows: list[dict[str, Any]] = []
        self.failed: list[tuple[str, str]] = []

    def place(self, name: str) -> Path:
        """Where the next picture is to lie.

        Raises:
            UserError: no picture's name, or too many pictures.
        """
        if len(self.names) == MAX_PICTURES:
            raise UserError(f"a run of the page takes {MAX_PICTURES} pictures; zerolabel predict takes any number.")
        self.names.append(unlike(picture_name(name), self.names))
        return self.pictures / self.names[-1]

    def keep(self, name: str, image: torch.Tensor, found: LabelMap) -> dict[str, Any]:
        """Writes what was found in a picture; returns its row and where it stands."""
        row = save_picture(self.out, name, image, found, self.vocabulary)
        picture = annotated_picture(len(self.rows), name, found, self.vocabulary, self.exports.rules)
        with self.regions.open("a", encoding="utf-8") as lines:
            print(picture.to_line(), file=lines)
        self.rows.append(row)
        return row | {"index": picture.index}

    def download(self, what: str) -> Path:
        """A zip of the label maps or of one export.

        Raises:
            UserError: unknown, nothing there yet, or an export that cannot hold these words or names.
        """
        known("download", what, DOWNLOADS)
        if not self.rows:
            raise UserError("there is no label map yet.")
        if what == LABELS:
            save_rows(self.out, self.vocabulary, self.protocol, self.rows, self.failed)
            parts = [self.out / "labels", self.out / "overlays", self.out / "segments", self.out / "predictions.json"]
        else:
            parts = self._export(what)
        path = self.folder / f"{what}.zip"
        with zipfile.ZipFile(path, "w") as archive:  # PNGs and JPEGs are packed already
            for file in sorted(file for part in parts for file in ([part] if part.is_file() else part.rglob("*"))):
                if file.is_file():
                    archive.write(file, file.relative_to(self.out if self.out in file.parents else self.folder))
        return path

    def _export(self, name: str) -> list[Path]:
        """With the pictures if its files say where they lie."""
        FORMATS[name]().check(self.vocabulary, [row["picture"] for row in self.rows])
        annotations = Annotations((self.regions,), self.pictures, self.vocabulary, self.exports.rules.instances)
        written = write_format(name, annotations, self.folder)
        return [written, *([self.pictures] if FORMATS[name].places == "relative" else [])]


class Workplace:
    """All runs, in a folder that is emptied at the end; the newest :data:`RUNS_KEPT` are kept."""

    def __init__(self, folder: Path, choices: list[Choice]) -> None:
        self.folder = folder
        self.choices = {choice.title: choice for choice in choices}
        self.model = OneModel()
        self.runs: OrderedDict[int, Run] = OrderedDict()
        self.numbers = count(1)
        self.writing = threading.RLock()  # of the folder, and of what is known of it
        self.closed = False

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *error: object) -> None:
        """A picture that is being segmented then leaves nothing behind."""
        with self.writing:
            self.closed = True

    def new_run(self, method: str, words: str, background: bool, region_options: dict[str, str]) -> tuple[int, Run]:
        """Checks what is asked before the first picture comes.

        Raises:
            UserError: an unknown method, words that are none or that the method cannot be asked for, or a wrong option.
        """
        choice = self.choices[known("method", method, self.choices)]
        exports = exports_of({"--export": ",".join(FORMATS)} | region_options)
        assert exports is not None
        vocabulary = typed(words)
        vocabulary = vocabulary.with_background() if background else vocabulary
        with self.model.lock:
            protocol = self.model.of(choice, vocabulary).protocol
        with self.writing:
            number = next(self.numbers)
            self._open()
            self.runs[number] = Run(self.folder / str(number), choice, vocabulary, protocol, exports)
            while len(self.runs) > RUNS_KEPT:
                shutil.rmtree(self.runs.popitem(last=False)[1].folder, ignore_errors=True)
            return number, self.runs[number]

    def run(self, number: int) -> Run:
        """Raises UserError for a run that is no longer there."""
        with self.writing:
            self._open()
            if number not in self.runs:
                raise UserError("these label maps are no longer kept. Segment the pictures again.")
            return self.runs[number]

    def segment(self, number: int, name: str, upload: Path) -> dict[str, Any]:
        """Segments a picture, which is moved into the run's folder; returns its row.

        Raises:
            UserError: no picture, one that cannot be read, or too many.
        """
        with self.writing:
            run = self.run(number)
            path = run.place(name)
            upload.rename(path)
        try:
            with self.model.lock:
                image = read_image(path)
                model = self.model.of(run.choice, run.vocabulary)
                (found,) = model.label_maps([image.to(model.device)], with_score=True)
        except UserError as error:
            message = str(error).replace(f"{run.pictures}/", "")
            with self.writing:
                run.failed.append((path.name, message))
                path.unlink(missing_ok=True)
            raise UserError(message) from error
        with self.writing:
            return self.run(number).keep(path.name, to_unit(image), found)

    def download(self, number: int, what: str) -> Path:
        """See :meth:`Run.download`."""
        with self.writing:
            return self.run(number).download(what)

    def upload(self) -> Path:
        """A new file for what comes in."""
        with self.writing:
            self._open()
            handle, name = tempfile.mkstemp(dir=self.folder, prefix="upload-")
            os.close(handle)
            return Path(name)

    def _open(self) -> None:
        if self.closed:
            raise UserError("the page was stopped.")


def load(options: list[str]) -> Segmenter:
    """The model that a command line names, on the GPU where there is one."""
    given, left = taken(options, ("--ckpt_path",))
    made = build_trained(
        [*left, "--trainer.logger=false", "--trainer.enable_checkpointing=false", DATA], given.get("--ckpt_path")
    )
    model: Segmenter = made.model
    vars(made).clear()  # jsonargparse keeps its parser, and so all that was made with it
    return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def typed(words: str) -> Vocabulary:
    """What ``--classes`` understands, but for the names of files: a page reads none of this machine's.

    Raises:
        UserError: such a name, or no list of words.
    """
    if words.strip().endswith((".txt", ".yaml", ".yml")):
        raise UserError(f"'{words.strip()}' is the name of a file. Type the words, or copy them from it.")
    return Vocabulary.named(words.strip())


def picture_name(name: str) -> str:
    """The last part of a name, fit for a file.

    Raises:
        UserError: the name of something else than a picture.
    """
    plain = "".join(letter if letter.isprintable() and letter not in '\\:*?"<>|' else "_" for letter in name.rpartition("/")[2])
    stem, suffix = Path(plain).stem, Path(plain).suffix
    if suffix.lower() not in SUFFIXES:
        raise UserError(f"'{plain[:LONGEST_NAME]}' is no picture by its name ({', '.join(sorted(SUFFIXES))}).")
    return stem.encode()[:LONGEST_NAME].decode(errors="ignore") + suffix


def unlike(name: str, others: list[str]) -> str:
    """The name, with a number if it is taken, as a file or as what an export calls it."""
    stem, suffix = Path(name).stem, Path(name).suffix
    taken = {Path(other).stem for other in others}
    free = (text for n in count(1) if (text := stem if n == 1 else f"{stem} ({n})") not in taken)
    return next(free) + suffix
