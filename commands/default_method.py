"""What ``predict`` does where no method is named: photographs by the packaged tower."""

from __future__ import annotations

from common.arguments import option_pairs
from common.files import shipped

CONFIG = "configs/training_free/photographs.yaml"
NAMES_A_METHOD = {"--config", "-c", "--model", "--ckpt_path"}
BETTER = "--config configs/training_free/sclip.yaml --config configs/backbones/clip_vit_b16.yaml"
SAID = (
    "tower: packaged (EfficientNet-Lite2 read through ImageNet's class names, no download); what is none of the classes is "
    f"background. Better, with a download of 600 MB: {BETTER}"
)


def with_default_method(options: list[str]) -> list[str] | None:
    """The options of ``predict`` with the default method in front; None where the user has named one."""
    given = {option for option, _ in option_pairs([*options, ""])}
    return None if given & NAMES_A_METHOD else ["--config", shipped(CONFIG), *options]
