"""``predict``'s short options, and what it does where no method is named: photographs by the packaged tower."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.callbacks import Callback

from commands.export_options import EXPORT_OPTIONS, SWITCHES, exports_of, number
from common.arguments import option_pairs, required, taken
from common.errors import UserError
from common.files import shipped
from common.values import Natural, Share
from datamodules.pictures import Tile
from evaluation.risk_control import Risks
from reporting.exporting import Exports
from reporting.none_of_these import NoneBelow, NoneOfThese
from reporting.smoothing import Memory, Smooth

DATA_OPTIONS, SMOOTH = ("--images", "--classes"), "--smooth"
TILE_OPTIONS = {"--tile": Tile, "--overlap": Natural}
NONE_BELOW, RISK, RISK_FROM = NONE_OPTIONS = ("--none_below", "--risk", "--risk_from")
CONFIG = "configs/training_free/photographs.yaml"
NAMES_A_METHOD = {"--config", "-c", "--model", "--ckpt_path"}
BETTER = "--config configs/training_free/sclip.yaml --config configs/backbones/clip_vit_b16.yaml"
TOWER = (
    "tower: packaged (EfficientNet-Lite2 read through ImageNet's class names, no download); what is none of the classes is "
    f"background. Better, with a download of 600 MB: {BETTER} (more towers: configs/backbones/)"
)
PREDICT_HELP = """predict: --images PATH (a picture, a folder or a film), --classes "cat; dog, puppy; sky" (or a .txt file) and
--output DIR are short for --data Pictures --data.images ... --data.classes ... and the folder to write to.
Without --config, photographs are segmented by the packaged tower, and what is none of the classes is background.
--export FORMAT[,FORMAT] also writes OUTPUT/exports/FORMAT for other tools: coco, cvat, fiftyone, labelme, labelstudio, voc.
Of what is exported: --instances makes a region of each connected part of a class, and not of all its pixels; --min_area N
leaves out regions of fewer pixels, --unsure P pixels whose probability is under P.
--risk R --risk_from FILE answers "none of the words" where the method is not sure, so that in the mean at most the share R of a
picture's pixels gets a wrong class; FILE is the risk.json of a test of the same method and words (docs/none_of_these.md).
--none_below P does so where the probability is below P.
--smooth M of a film or of numbered frames: each pixel's class is voted on by this frame and, with weight M (0 to 0.99), by
those before.
--tile N cuts pictures into tiles of N x N pixels, each segmented as if it were a picture, --overlap N of them shared by
neighbours (a quarter if not given): for huge and georeferenced pictures, whose label maps become GeoTIFFs.
"""


class PredictOptions(NamedTuple):
    """LightningCLI's options for those of ``predict``; whether no method was named; what else is to be done."""

    lightning: list[str]
    by_default: bool
    exports: Exports | None
    change: Callback | None = None  # of what is found, before it is written


def predict_options(options: list[str]) -> PredictOptions:
    """Reads the short options.

    ``--images`` and ``--classes`` go as JSON: words are text, whatever YAML would make of ``a: b`` or ``null``. They come
    after configs, and so win. The default method gives what is none of the classes a class of its own.

    Raises:
        UserError: one of the short options without a value, or with a wrong one.
    """
    by_default = not NAMES_A_METHOD & {option for option, _ in option_pairs([*options, ""])}
    given, left = taken(options, (*DATA_OPTIONS, *TILE_OPTIONS, "--output", SMOOTH, *NONE_OPTIONS, *EXPORT_OPTIONS), SWITCHES)
    if by_default and not any(word.startswith(("--data", "--help")) for word in left):
        required(given, images="holiday/", classes='"cat; dog, puppy; sky"')
    kept = ["--config", shipped(CONFIG), *left] if by_default else left
    data: dict[str, Any] = {option.removeprefix("--"): given[option] for option in DATA_OPTIONS if option in given}
    data |= {o.removeprefix("--"): number(o, given[o], hint) for o, hint in TILE_OPTIONS.items() if o in given}
    if data:
        data |= {"background": True} if by_default else {}
        at = next((i for i, option in enumerate(kept) if option.startswith("--data.")), len(kept))
        kept.insert(at, "--data=" + json.dumps({"class_path": "Pictures", "init_args": data}))
    output = [f"--trainer.default_root_dir={given['--output']}"] if "--output" in given else []
    exports = exports_of({option: value for option, value in given.items() if option in EXPORT_OPTIONS})
    lightning = [*kept, *output, "--return_predictions=false"]  # predictions are on disk
    return PredictOptions(lightning, by_default, exports, change_of(given))


def change_of(given: Mapping[str, str]) -> Callback | None:
    """What the options change of label maps: pixels that are none of the words, or frames smoothed.

    Raises:
        UserError: a value out of range, no risk file, half of a pair, or two of which one takes the other's meaning away.
    """
    if (RISK in given) != (RISK_FROM in given):
        raise UserError(
            f"{RISK} and {RISK_FROM} go together: a risk, and the risk.json of a test of this method with these words."
        )
    asked = [option for option in (RISK, NONE_BELOW, SMOOTH) if option in given]
    if len(asked) > 1:
        raise UserError(f"{asked[0]} and {asked[1]} exclude each other: each decides by probabilities that the other changes.")
    if SMOOTH in given:
        return Smooth(number(SMOOTH, given[SMOOTH], Memory))
    if NONE_BELOW in given:
        return NoneOfThese(NoneBelow(number(NONE_BELOW, given[NONE_BELOW], Share)))
    if RISK in given:
        path = Path(given[RISK_FROM])
        return NoneOfThese(NoneBelow.of_risk(number(RISK, given[RISK], Share), Risks.read(path), path))
    return None
