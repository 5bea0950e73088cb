"""Questions about pictures of the embedded world and their answers: OFA's own kinds of tasks, in words.

Made from what annotators of captions and boxes would know: which things are visible, and their boxes. No mask is read.
"""

from __future__ import annotations

import numpy as np

from datamodules.shapes import world

BINS = 16  # of a coordinate, as OFA's <bin_i>
SHARES = {
    "caption": 0.1,
    "infill": 0.06,
    "match": 0.07,
    "choose": 0.25,
    "region": 0.15,
    "point": 0.25,
    "what": 0.05,
    "cue": 0.07,
}
OFFERED = 0.6  # share of the region questions that list what to choose from
KNOWN = (*world.SEEN, *range(len(world.NAMES), len(world.WORLD_NAMES)))
CUES = ("color", "texture", "shape")
INSTRUCTIONS = {
    "caption": "what does the image describe?",
    "infill": 'what is the complete text of " {} "?',
    "match": 'does the image describe " {} "?',
    "choose": "which objects are in the image? object: {}",
    "region": "what does the region describe? region: {}",
    "cue": "what {} does the region describe? region: {}",
}


def ask(rng: np.random.Generator, scene: world.Scene, visible: list[int]) -> tuple[str, str]:
    """One question and its answer, of a random kind with the ``SHARES``."""
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    if kind == "match":
        true = rng.random() < 0.5
        asked = rng.choice(visible if true else [i for i in KNOWN if i not in visible])
        return INSTRUCTIONS["match"].format(world.WORLD_NAMES[asked]), "yes" if true else "no"
    if kind == "choose":
        offered = _offer(rng, visible, 8)
        right = [i for i in offered if i in visible]
        return INSTRUCTIONS["choose"].format(_listed(offered)), _listed(right)
    if kind == "what":
        return _about_a_cue(rng, visible)
    if kind in ("caption", "infill"):
        return _caption(rng, visible, infill=kind == "infill")
    region, thing = _region(rng, scene, point=kind == "point" or (kind == "cue" and rng.random() < 0.7))
    name = world.WORLD_NAMES[thing]
    if kind == "cue" and thing < len(world.NAMES):
        asked = int(rng.integers(3))
        return INSTRUCTIONS["cue"].format(CUES[asked], region), name.split()[asked]
    question = INSTRUCTIONS["region"].format(region)
    if kind != "cue" and rng.random() < OFFERED:
        question += f" object: {_listed(_offer(rng, [thing], 12))}"
    return question, name


def _offer(rng: np.random.Generator, true: list[int], most: int) -> list[int]:
    """2 to ``most`` things in any order, at least one of them true."""
    count = int(rng.integers(2, most + 1))
    right = rng.permutation(true)[: rng.integers(1, min(len(true), count) + 1)]
    wrong = rng.permutation([i for i in KNOWN if i not in true])[: count - len(right)]
    return [int(i) for i in rng.permutation(np.concatenate([right, wrong]))]


def _listed(things: list[int]) -> str:
    return " ".join(world.WORLD_NAMES[i] for i in things)


def _caption(rng: np.random.Generator, visible: list[int], infill: bool) -> tuple[str, str]:
    said = [world.WORLD_NAMES[i] for i in rng.permutation(visible)]
    caption = " and ".join(said[: rng.integers(1, min(3, len(said)) + 1)])
    if not infill:
        return INSTRUCTIONS["caption"], caption
    words = caption.split()
    hidden = rng.random(len(words)) < 0.4
    return INSTRUCTIONS["infill"].format(" ".join(np.where(hidden, "<mask>", words))), caption


def _about_a_cue(rng: np.random.Generator, visible: list[int]) -> tuple[str, str]:
    """ "what shape is red plain?": two cues of an object are given, the third is asked."""
    objects = [i for i in visible if i < len(world.NAMES)]
    if not objects:
        return _caption(rng, visible, infill=False)
    words = world.NAMES[int(rng.choice(objects))].split()
    asked = int(rng.integers(3))
    given = " ".join(word for k, word in enumerate(words) if k != asked)
    return f"what {CUES[asked]} is the {given} object?", words[asked]


def _region(rng: np.random.Generator, scene: world.Scene, point: bool) -> tuple[str, int]:
    """A thing's box, or a small box near the middle of one, and the topmost thing whose box holds it."""
    size = scene.image.shape[0]
    kind, top, left, bottom, right = scene.boxes[int(rng.integers(len(scene.boxes)))]
    if point:
        y = top + (bottom - top) * float(np.clip(rng.normal(0.5, 0.15), 0, 1))
        x = left + (right - left) * float(np.clip(rng.normal(0.5, 0.15), 0, 1))
        half = size / (2 * BINS)
        holding = [box for box in scene.boxes if box[1] <= y < box[3] and box[2] <= x < box[4]]
        objects = [box for box in holding if box[0] < len(world.NAMES)]
        kind = (objects or holding or [scene.boxes[0]])[-1][0]
        top, left, bottom, right = (round(v) for v in (y - half, x - half, y + half, x + half))
    bins = [min(BINS - 1, max(0, v * BINS // size)) for v in (left, top, right, bottom)]
    return " ".join(f"<bin_{b}>" for b in bins), kind
