"""``predict`` on a film: a film of overlays, and the label map of each frame as a PNG; whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.batch import Item
from common.drawing import label_image, tint
from common.files import atomic_folder, atomic_path
from evaluation.label_map import LabelMap
from evaluation.vocabulary import Vocabulary
from reporting.predictions import SavePredictions, as_bytes, on_cpu
from reporting.shares import Shares

CODEC = "libx264"  # every browser plays it
QUALITY = {"crf": "18"}  # of x264: hardly to be told from the original
CUT_OFF = 0.9  # share of the promised frames
COLOURS = 1  # BT.709, as players expect of what is not tagged otherwise


class SaveFilm(SavePredictions):
    """Writes ``labels/NAME/000001.png`` and so on, ``overlays/NAME.mp4``, and one row for the whole film."""

    def __init__(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        super().__init__(folder, notes)
        self.frames, self.unfinished = 0, ExitStack()

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_predict_start(trainer, pl_module)
        self.film = trainer.datamodule.stream.film
        self.shares = Shares(pl_module.vocabulary.names)
        stem = self.film.path.stem
        self.labels = self.unfinished.enter_context(atomic_folder(self.folder / "labels" / stem))
        path = self.unfinished.enter_context(atomic_path(self.folder / "overlays" / f"{stem}.mp4"))
        self.overlays = self.unfinished.enter_context(FilmWriter(path, self.film))

    @property
    def done(self) -> str:
        return f"{self.frames} frames"

    def save(self, item: Item, result: LabelMap, vocabulary: Vocabulary) -> None:
        labels, score = on_cpu(result)
        label_image(labels, vocabulary.palette).save(self.labels / f"{Path(item['name']).name}.png")
        overlay = tint(as_bytes(item["image"]), labels, vocabulary.palette, vocabulary.background)
        self.overlays.add(np.asarray(overlay), item["time"])
        self.shares.add(labels, score)
        self.frames += 1

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        self.unfinished.close()
        row = {"picture": self.film.path.name, "size": list(self.film.size), "frames": self.frames}
        row |= {"rate": round(float(self.film.rate), 3), "overlay": f"{self.film.path.stem}.mp4"}
        self.rows = [row | self.shares.row()]
        super().on_predict_end(trainer, pl_module)
        if self.frames < CUT_OFF * self.film.expected:  # some containers end anywhere without saying so
            promised = (
                f"the header of '{self.film.path}' promises about {self.film.expected} frames, {self.frames} could be read"
            )
            print(f"note: {promised}; the film may be cut off.")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Nothing of a film that was not finished is left."""
        self.unfinished.__exit__(type(exception), exception, exception.__traceback__)


class FilmWriter:
    """An H.264 film of the size, the shape of pixels and the times of another one; a context, left when it is whole.

    Its colours have half the resolution (yuv420p, which every player knows), so its sides are even: an odd one is a pixel
    longer, its last row or column repeated.
    """

    def __init__(self, path: Path, like: Any) -> None:
        import av  # optional

        height, width = like.size
        with as_os_error():
            self.container = av.open(str(path), "w")
            stream: Any = self.container.add_stream(CODEC, rate=like.rate, options=QUALITY)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = like.tick
        stream.codec_context.sample_aspect_ratio = like.aspect
        stream.codec_context.colorspace = COLOURS
        self.stream, self.tick = stream, like.tick

    def add(self, pixels: NDArray[np.uint8], time: int) -> None:
        """A frame (H, W, 3), and when it is shown, in ticks."""
        import av

        even = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuv420p", dst_colorspace=COLOURS)
        frame.pts, frame.time_base = time, self.tick
        with as_os_error():
            self.container.mux(self.stream.encode(frame))

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        with as_os_error() if error[0] is None else suppress(Exception):
            if error[0] is None:
                self.container.mux(self.stream.encode())
            self.container.close()


@contextmanager
def as_os_error() -> Iterator[None]:
    """What PyAV says of a full disk, as everything else says it."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
