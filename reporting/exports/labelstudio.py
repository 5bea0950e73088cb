"""Label Studio: tasks with predictions, painted with its brush, and the labelling configuration that they need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from common import __version__
from reporting.class_colours import css
from reporting.exports.format import Format, write_items
from reporting.exports.mask_files import mask_classes
from reporting.exports.records import AnnotatedPicture, Annotations, Region

LOCAL_FILES = "/data/local-files/?d="  # what Label Studio serves of LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT
RUN_BITS = (3, 4, 8, 16)  # the sizes that a run's length may have


class LabelStudio(Format):
    """Tasks with predictions, brush masks and scores (Label Studio)."""

    def write(self, annotations: Annotations, folder: Path) -> None:
        with (folder / "tasks.json").open("w", encoding="utf-8") as file:
            write_items(file, self._tasks(annotations))
        labels = [
            f"    <Label value={quoteattr(of.name)} background={quoteattr(css(of.colour))}/>"
            for of in mask_classes(annotations.vocabulary)[1:]
        ]
        lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>', '  <BrushLabels name="tag" toName="image">']
        text = "\n".join([*lines, *labels, "  </BrushLabels>", "</View>\n"])
        (folder / "label_config.xml").write_text(text, encoding="utf-8")

    def _tasks(self, annotations: Annotations) -> Iterator[dict[str, Any]]:
        for picture in annotations:
            regions = annotations.objects(picture)
            names = annotations.vocabulary.names
            result = [painted(picture, region, names[region.category], place) for place, region in enumerate(regions)]
            prediction: dict[str, Any] = {"model_version": f"zerolabel {__version__}", "result": result}
            scores = [region.score for region in regions if region.score is not None]
            if scores:
                prediction["score"] = round(float(np.average(scores, weights=[region.area for region in regions])), 4)
            yield {"data": {"image": LOCAL_FILES + quote(Path(picture.name).as_posix())}, "predictions": [prediction]}


def painted(picture: AnnotatedPicture, region: Region, name: str, place: int) -> dict[str, Any]:
    """What a brush has painted, as Label Studio documents it."""
    height, width = picture.size
    value = {"format": "rle", "rle": list(brush(picture.mask(region))), "brushlabels": [name]}
    return {
        "id": f"{picture.index}-{place}",
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    } | ({} if region.score is None else {"score": region.score})


def brush(mask: NDArray[np.bool_]) -> bytes:
    """A mask (H, W) in the format of the brush: the pixels' four channels, 0 or 255, packed as @thi.ng/rle-pack documents it.

    32 bits: how many values; 5: bits of a value, less 1; 4 x 4: the sizes that a run's length may have, less 1. Then of each
    run: a 1; 2 bits, which of the sizes; the length less 1; the value.
    """
    values = mask.ravel()
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([[0], edges, [values.size]])
    bits = [f"{4 * values.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        value = "11111111" if values[start] else "00000000"
        remaining = 4 * (end - start)
        while remaining:
            run = min(remaining, 1 << RUN_BITS[-1])
            kind = next(k for k, size in enumerate(RUN_BITS) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{RUN_BITS[kind]}b}{value}")
            remaining -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")
