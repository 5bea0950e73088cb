"""Films: what a header says of one, and its frames, decoded one at a time by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from common.batch import Item
from common.errors import UserError, how_to_install, in_one_line

FILM_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"}
USUAL_RATE = Fraction(25)  # where a header says none


def is_film(path: Path) -> bool:
    """By its name alone."""
    return path.suffix.lower() in FILM_SUFFIXES


@dataclass(frozen=True)
class Film:
    """A film that can be read.

    Attributes:
        path: the file.
        size: (H, W) as it is looked at, turned as the camera says.
        rate: frames per second, their mean where they come unevenly.
        tick: seconds that the frames' times are counted in.
        aspect: width of a pixel, divided by its height.
        expected: how many frames there will be, for a progress bar; 0 where the header does not say.
    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    tick: Fraction
    aspect: Fraction
    expected: int

    @staticmethod
    def opened(path: Path) -> Film:
        """Reads the header and the first frame.

        Raises:
            UserError: PyAV is missing, or there is no picture in the file.
        """
        if find_spec("av") is None:
            raise UserError(f"'{path}' is a film, and reading films needs PyAV: {how_to_install('video')}")
        with _decoding(path) as (container, stream):
            first = next(container.decode(stream), None)
            if first is None:
                raise UserError(f"film '{path}' has no frame that can be read.")
            rate = stream.average_rate or stream.guessed_rate or USUAL_RATE
            aspect = Fraction(stream.sample_aspect_ratio or 1)
            expected = stream.frames or round((container.duration or 0) / 1_000_000 * rate)  # microseconds
            size = (first.height, first.width)
            if _quarter_turns(first) % 2:
                size, aspect = size[::-1], 1 / aspect
            return Film(path, size, Fraction(rate), Fraction(stream.time_base), aspect, expected)

    def frames(self) -> Iterator[tuple[int, Tensor]]:
        """Time of each frame from the first one, in ticks and always growing, and its pixels (3, H, W) uint8 RGB.

        Raises:
            UserError: the film breaks off.
        """
        step = max(1, round(1 / (self.rate * self.tick)))
        first, last, done = None, -step, 0
        with _decoding(self.path, lambda: f" after {done} frames") as (container, stream):
            for frame in container.decode(stream):
                first = frame.pts if first is None else first
                untimed = frame.pts is None or first is None
                last = last + step if untimed else max(last + 1, frame.pts - first)
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame))
                yield last, torch.from_numpy(pixels.transpose(2, 0, 1).copy())
                done += 1


class Frames(IterableDataset[Item]):
    """The frames of a film as items that are named as numbered pictures of a folder are: ``holiday/000001`` and so on."""

    def __init__(self, film: Film) -> None:
        self.film, self.expected = film, film.expected

    def __iter__(self) -> Iterator[Item]:
        for index, (time, image) in enumerate(self.film.frames()):
            name = f"{self.film.path.stem}/{index + 1:06d}"
            yield {"name": name, "index": index, "error": "", "image": image, "time": time}


@contextmanager
def _decoding(path: Path, where: Any = str) -> Iterator[tuple[Any, Any]]:
    """The open file and its first stream of moving pictures; ``where`` says, once reading fails, how far it came."""
    import av  # optional

    try:
        with av.open(str(path)) as container:
            moving = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
            if not moving:
                raise UserError(f"'{path}' holds no moving pictures, only {_kinds(container)}.")
            moving[0].thread_type = "AUTO"
            yield container, moving[0]
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or in_one_line(error)
        raise UserError(f"film '{path}' cannot be read{where()}: {reason}.") from error


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _quarter_turns(frame: Any) -> int:
    """Counterclockwise, until the frame is upright."""
    return round(frame.rotation / 90)
