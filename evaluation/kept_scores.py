"""Window scores kept on disk, so that thresholds, temperatures and the like are tried without asking the network again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.files import atomic_path, cache_folder
from evaluation.windows import WindowScores, resize_image, window_boxes
from reporting.recorder import weights_hash
from reporting.result import code_hash, digest

Looked = list[tuple[Tensor, WindowScores]]  # resized pictures (3, R, S), and what a method said about them
AFTER_SCORING = ("name", "background", "background_value", "area_threshold", "pamr_dilations", "pamr_iterations")
OF_PROBABILITIES = ("temperature", "activation")  # afterwards, too, unless the scores are probabilities already


class KeepScores(Callback):
    """Tests and validations read the scores of pictures that were seen before; the numbers stay the same, bit for bit.

    A file is found by the picture's content, in a folder named by all that a score depends on: method, weights, words, windows,
    prompts, code. Delete the folder when the sweep is done. ``zerolabel validate ...
    --trainer.callbacks+=evaluation.kept_scores.KeepScores``.

    Args:
        folder: of all scores; the cache's ``scores`` if None.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = Path(folder) if folder else cache_folder("scores")

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.kept_scores = KeptScores(self.folder / digest(score_settings(pl_module)), pl_module.protocol)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        kept, pl_module.kept_scores = pl_module.kept_scores, None
        print(f"scores of {kept.read} pictures were read from '{kept.folder}', of {kept.written} written", flush=True)

    on_validation_start = on_test_start
    on_validation_end = on_test_end


class KeptScores:
    """The scores of one method under the rules of one protocol, by picture."""

    def __init__(self, folder: Path, protocol: Any) -> None:
        self.folder, self.protocol = folder, protocol
        self.read = self.written = 0

    def look(self, images: list[Tensor], look: Callable[[list[Tensor]], Looked]) -> Looked:
        """What ``look`` says of the images (3, H, W), asked only about those that are not kept."""
        files = [self.folder / f"{_of_picture(image)}.safetensors" for image in images]
        found = [self._load(file, image) for file, image in zip(files, images, strict=True)]
        missing = [i for i, one in enumerate(found) if one is None]
        for i, one in zip(missing, look([images[i] for i in missing]) if missing else [], strict=True):
            with atomic_path(files[i]) as path:
                save_file({"scores": one[1].scores.cpu().contiguous()}, path)
            found[i] = one
        self.read += len(images) - len(missing)
        self.written += len(missing)
        return [one for one in found if one is not None]

    def _load(self, file: Path, image: Tensor) -> tuple[Tensor, WindowScores] | None:
        """None where there is no file, or a broken one."""
        try:
            scores = load_file(file, device=str(image.device))["scores"]
        except (OSError, SafetensorError, KeyError):
            return None
        resized = resize_image(image, self.protocol)
        height, width = resized.shape[1:]
        return resized, WindowScores(scores, window_boxes(height, width, self.protocol), (height, width))


def score_settings(model: Any) -> dict[str, Any]:
    """All that a method's scores of a picture depend on, besides the picture."""
    rules = asdict(model.protocol)
    after = AFTER_SCORING
    if rules["refine"] != "neighbours":
        after += ("refine", *(() if model.scores == "probability" else OF_PROBABILITIES))
    return {
        "method": type(model).__name__,
        "hyper-parameters": {
            k: v for k, v in model.hparams.items() if k not in ("protocol", "protocol_values", "window_batch")
        },
        "weights": weights_hash(model),
        "words": model.words,
        "rules": {key: value for key, value in rules.items() if key not in after},
        "code": code_hash(),
        "device": str(model.device),
    }


def _of_picture(image: Tensor) -> str:
    content = hashlib.blake2b(f"{image.dtype}{tuple(image.shape)}".encode(), digest_size=16)
    content.update(image.contiguous().cpu().numpy().tobytes())
    return content.hexdigest()
