"""``predict``'s short options, and what it does where no method is named: photographs by the packaged tower."""

from __future__ import annotations

import json
from typing import Any

from common.arguments import option_pairs
from common.errors import UserError
from common.files import shipped

CONFIG = "configs/training_free/photographs.yaml"
NAMES_A_METHOD = {"--config", "-c", "--model", "--ckpt_path"}
BETTER = "--config configs/training_free/sclip.yaml --config configs/backbones/clip_vit_b16.yaml"
TOWER = (
    "tower: packaged (EfficientNet-Lite2 read through ImageNet's class names, no download); what is none of the classes is "
    f"background. Better, with a download of 600 MB: {BETTER} (more towers: configs/backbones/)"
)
PREDICT_HELP = """predict: --images PATH (a picture or a folder), --classes "cat; dog, puppy; sky" (or a .txt file) and
--output DIR are short for --data Pictures --data.images ... --data.classes ... and the folder to write to.
Without --config, photographs are segmented by the packaged tower, and what is none of the classes is background.
"""


def predict_options(options: list[str]) -> tuple[list[str], bool]:
    """LightningCLI's options for those of ``predict``, and whether the default method stands in for one that is not named.

    ``--images`` and ``--classes`` go as JSON: words are text, whatever YAML would make of ``a: b`` or ``null``. They come
    after configs, and so win. The default method gives what is none of the classes a class of its own.

    Raises:
        UserError: one of the short options without a value.
    """
    by_default = not NAMES_A_METHOD & {option for option, _ in option_pairs([*options, ""])}
    kept = ["--config", shipped(CONFIG)] if by_default else []
    data, output = dict[str, Any](), list[str]()
    remaining = iter(options)
    for option in remaining:
        name, equals, value = option.partition("=")
        if name not in ("--images", "--classes", "--output"):
            kept.append(option)
            continue
        if not equals and (value := next(remaining, "")) == "":
            raise UserError(f"{name} needs a value.")
        if name == "--output":
            output = [f"--trainer.default_root_dir={value}"]
        else:
            data[name.removeprefix("--")] = value
    if data:
        data |= {"background": True} if by_default else {}
        at = next((i for i, option in enumerate(kept) if option.startswith("--data.")), len(kept))
        kept.insert(at, "--data=" + json.dumps({"class_path": "Pictures", "init_args": data}))
    return [*kept, *output, "--return_predictions=false"], by_default  # predictions are on disk
