"""Shapes: the embedded procedural benchmark (see :mod:`datamodules.shapes.world`), its captions and its label spaces."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from common.batch import Item
from common.code import code_of
from common.randomness import run_seed
from common.records import Contents, numbered
from common.values import Count, Natural
from datamodules.base import Benchmark, DataModule
from datamodules.sampling import TrainingLoader
from datamodules.shapes import world
from datamodules.shapes.questions import ask

SIZES = ((96, 96), (96, 128), (128, 96), (96, 112))  # of benchmark pictures, rows x columns
TRAIN_SIZE = 64
QUESTIONS = 4  # per picture
OPENINGS = ("a photo of {}.", "a picture of {}.", "an image of {}", "{}")


class Shapes(DataModule):
    """Pictures of textured shapes on named grounds, drawn on the fly.

    Args:
        vocabulary: ``shapes13`` (12 objects + background, like VOC21), ``shapes12`` (objects only, like VOC20),
            ``shapes16`` (everything named, like Context59) or ``shapes_open`` (16 objects + background, four of them
            never named in a caption).
        seed: of the world.
        pictures: pictures in the validation and test splits.
        train_pictures: pictures of one training epoch.
        train: what a training batch holds: ``"captions"``, ``"pictures"``, ``"questions"`` with their answers (to pretrain
            an OFA), or ``"masks"`` for the oracle alone.
        train_batch_size: pictures per training step.
        batch_size: pictures per evaluation step.
        num_workers: loader processes.
        limit: use only the first pictures of a split; 0 for all.
        leave_out_classes: as of :class:`DataModule`.
    """

    label_spaces = ("shapes13", "shapes12", "shapes16", "shapes_open")

    def __init__(
        self,
        vocabulary: str = "shapes13",
        seed: Natural = 0,
        pictures: Count = 300,
        train_pictures: Count = 20_000,
        train: Literal["captions", "pictures", "questions", "masks"] = "captions",
        train_batch_size: Count = 64,
        batch_size: Count = 16,
        num_workers: Natural = 1,
        limit: Natural = 0,
        leave_out_classes: str = "",
    ) -> None:
        super().__init__(self.label_space(vocabulary), batch_size, num_workers, limit, leave_out_classes)
        self.open_world = vocabulary == "shapes_open"
        self.seed, self.pictures, self.train_pictures = seed, pictures, train_pictures
        self.train, self.train_batch_size = train, train_batch_size

    def benchmark(self, split: str) -> Benchmark:
        return ShapesBenchmark(self, split)

    def train_dataloader(self) -> TrainingLoader:
        kinds = {"captions": ShapesCaptions, "pictures": ShapesPictures, "questions": ShapesQuestions, "masks": ShapesOracle}
        dataset = kinds[self.train](self)
        collate = collate_questions if self.train == "questions" else None
        return TrainingLoader(dataset, self.train_batch_size, run_seed(), self.num_workers, collate_fn=collate)


class ShapesBenchmark(Benchmark):
    """Labelled pictures of four sizes, whole scenes."""

    def __init__(self, data: Shapes, split: str) -> None:
        self.data, self.split = data, split
        self.classes = tuple(range(len(world.NAMES))) if data.open_world else world.SEEN

    def __len__(self) -> int:
        return self.data.pictures

    def content(self) -> str:
        """Nothing: the pictures follow from the options and the code."""
        return ""

    def __getitem__(self, index: int) -> Item:
        rng = world.random_source(self.data.seed, self.split, index)
        scene = world.render(rng, *SIZES[index % len(SIZES)], classes=self.classes)
        return {
            "image": to_tensor(scene.image),
            "mask": torch.from_numpy(self.data.vocabulary.to_train_ids(scene.world_ids)),
            "name": f"{self.split}-{index:05d}",
            "index": index,
        }


class ShapesPictures(Dataset[dict[str, Any]]):
    """Unlabelled square photographs at several zooms: more than half of them close up (1 to 3 times).

    Indexed by (epoch, index) as all training pictures are; a picture is the same in every epoch.
    """

    tag_names: ClassVar = list(world.WORLD_NAMES)  # of the fields ``visible`` and ``said``

    def __init__(self, data: Shapes) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.train_pictures

    def square(self, index: int) -> torch.Tensor:
        """(3, S, S) uint8, as it is drawn."""
        return to_tensor(self._scene(index)[0].image)

    def contents(self) -> Contents:
        """Of pictures that are drawn and not read."""
        return numbered(f"shapes {self.data.seed}", len(self))

    def rendering(self) -> dict[str, Any]:
        return {"size": TRAIN_SIZE, "code": code_of(world)}

    def _scene(self, index: int) -> tuple[world.Scene, np.random.Generator]:
        rng = world.random_source(self.data.seed, "train", index)
        zoom = 1 + 2 * rng.random() if rng.random() < 0.6 else 1.0
        return world.render(rng, TRAIN_SIZE, TRAIN_SIZE, zoom), rng

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {"image": to_tensor(self._scene(key[1])[0].image), "index": key[1]}


class ShapesCaptions(ShapesPictures):
    """The same photographs with a caption of what covers at least 3 % of them; most captions leave things out.

    ``visible`` and ``said`` (20,) bool list the words of the full and of this caption, so that a caption that is also
    true of another picture of the batch is not taken for a wrong one.
    """

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        _, index = key
        scene, rng = self._scene(index)
        visible = list(scene.visible())
        said = [visible[i] for i in rng.permutation(len(visible))]
        kind = rng.random()
        said = said[:1] if kind < 0.6 else said[: rng.integers(1, len(said) + 1)] if kind < 0.8 else said
        return {
            "image": to_tensor(scene.image),
            "caption": caption(rng, said),
            "visible": _listed(visible),
            "said": _listed(said),
            "index": index,
        }


class ShapesQuestions(ShapesPictures):
    """The same photographs with four questions and answers each, and ``visible`` (20,) bool."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        _, index = key
        scene, rng = self._scene(index)
        visible = list(scene.visible())
        pairs = [ask(rng, scene, visible) for _ in range(QUESTIONS)]
        texts = {"question": [question for question, _ in pairs], "answer": [answer for _, answer in pairs]}
        return {"image": to_tensor(scene.image), "visible": _listed(visible), "index": index} | texts


def collate_questions(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The texts of a picture stay together: ``question`` and ``answer`` are lists (B) of lists."""
    texts = {key: [item.pop(key) for item in items] for key in ("question", "answer")}
    return default_collate(items) | texts


class ShapesOracle(ShapesPictures):
    """Photographs with their masks: only for the oracle, which is reported outside the ranking."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        _, index = key
        scene, _ = self._scene(index)
        mask = torch.from_numpy(self.data.vocabulary.to_train_ids(scene.world_ids))
        return {"image": to_tensor(scene.image), "mask": self.data.vocabulary.named_only(mask), "index": index}


def caption(rng: np.random.Generator, said: list[int]) -> str:
    """A sentence that names things: ``"a photo of grass, a red striped square and sand."``."""
    phrases = [world.WORLD_NAMES[i] if i >= len(world.NAMES) else f"a {world.WORLD_NAMES[i]}" for i in said]
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    return OPENINGS[rng.integers(len(OPENINGS))].format(listed)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W), uint8."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def _listed(ids: list[int]) -> torch.Tensor:
    return torch.zeros(len(world.WORLD_NAMES), dtype=torch.bool).index_fill_(0, torch.tensor(ids), True)
