"""Window scores kept on disk, so that thresholds, temperatures and the like are tried without asking the network again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from common.code import code_of
from common.kept import Kept, key_of
from common.weights import weights_hash
from evaluation.rules import Windows
from evaluation.windows import WindowScores, is_direct, resize_image, window_boxes

AFTER_SCORING = {"area_threshold", "pamr_dilations", "pamr_iterations"}
OF_BACKGROUND = {"background", "background_value"}  # after scoring, too, unless background is a channel of each window
OF_PROBABILITIES = {"temperature", "activation", "logit_bias"}  # unless the scores are probabilities already


class KeepScores(Callback):
    """Tests and validations read the scores of images that were seen before; the numbers stay the same, bit for bit.

    An entry is found by the image's content and by all that a score depends on: method, weights, words, windows, prompts, code.
    Delete the folder when the sweep is done. ``zerolabel validate ... --trainer.callbacks+=evaluation.kept_scores.KeepScores``.

    Args:
        folder: of all scores; the cache's ``scores`` if None.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = None if folder is None else Path(folder)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        store, windows = Kept("scores", self.folder), pl_module.inference.protocol.windows
        pl_module.kept_scores = KeptScores(store, score_settings(pl_module), windows)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        kept, pl_module.kept_scores = pl_module.kept_scores, None
        print(f"scores of {kept.read} images were read from '{kept.store.folder}', of {kept.written} written", flush=True)

    on_validation_start = on_test_start
    on_validation_end = on_test_end


class KeptScores:
    """The scores of one method under one set of rules, by image.

    Args:
        store: where they lie.
        settings: all that they depend on besides the image.
        windows: the rules by which windows are cut.
    """

    def __init__(self, store: Kept, settings: dict[str, Any], windows: Windows) -> None:
        self.store, self.settings, self.windows = store, key_of(**settings), windows
        self.read = self.written = 0

    def score_images(self, images: list[Tensor], score: Callable[[list[Tensor]], list[WindowScores]]) -> list[WindowScores]:
        """The scores of images (3, H, W); ``score`` is asked about those that are not kept."""
        keys = [key_of(settings=self.settings, image=_digest(image)) for image in images]
        found = [self._load(key, image) for key, image in zip(keys, images, strict=True)]
        missing = [i for i, one in enumerate(found) if one is None]
        for i, scored in zip(missing, score([images[i] for i in missing]) if missing else [], strict=True):
            self.store.write(keys[i], {"scores": scored.scores})
            found[i] = scored
        self.read += len(images) - len(missing)
        self.written += len(missing)
        return [one for one in found if one is not None]

    def _load(self, key: str, image: Tensor) -> WindowScores | None:
        """None where there is none."""
        entry = self.store.read(key)
        if entry is None:
            return None
        resized = resize_image(image, self.windows)
        boxes = window_boxes(resized.shape[1], resized.shape[2], self.windows)
        return WindowScores(entry.tensors["scores"].to(image.device), boxes, resized, is_direct(self.windows))


def score_settings(model: Any) -> dict[str, Any]:
    """All that a method's scores of an image depend on, besides the image."""
    rules, after = model.protocol.content, set(AFTER_SCORING)
    if rules.get("refine") != "neighbours":
        after.add("refine")
    if model.inference.kind != "probability":
        after |= OF_PROBABILITIES
    if not model.inference.background_channel:
        after |= OF_BACKGROUND
    return {
        "method": type(model).__name__,
        "hyper-parameters": own_options(model),
        "weights": weights_hash(model),
        "words": model.words,
        "label space": model.vocabulary.name,  # whose numbers a method may take
        "rules": {key: value for key, value in rules.items() if key not in after},
        "code": code_of(type(model)),
        "device": str(model.device),
    }


def own_options(model: Any) -> dict[str, Any]:
    """A method's hyper-parameters but for those of evaluation and how it was made."""
    of_evaluation = ("protocol", "protocol_values", "window_batch")
    return {k: v for k, v in model.hparams.items() if k not in of_evaluation and not k.startswith("_")}


def _digest(image: Tensor) -> str:
    content = hashlib.blake2b(f"{image.dtype}{tuple(image.shape)}".encode(), digest_size=16)
    content.update(image.contiguous().cpu().numpy().tobytes())
    return content.hexdigest()
