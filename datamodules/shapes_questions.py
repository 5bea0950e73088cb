"""Questions about pictures of the embedded world and their answers: OFA's own kinds of tasks, in words.

Made from what annotators of captions and boxes would know: which things are visible, and their boxes. No mask is read.
"""

from __future__ import annotations

import numpy as np

from datamodules import shapes_world as world

BINS = 16  # of a coordinate, as OFA's <bin_i>
SHARES = {"caption": 0.1, "infill": 0.06, "match": 0.07, "words": 0.16, "region": 0.22, "point": 0.27, "what": 0.12}
INSTRUCTIONS = {
    "caption": "what does the image describe?",
    "infill": 'what is the complete text of " {} "?',
    "match": 'does the image describe " {} "?',
    "words": "which objects are in the image?",
    "region": "what does the region describe? region: {}",
}


def ask(rng: np.random.Generator, scene: world.Scene, visible: list[int]) -> tuple[str, str]:
    """One question and its answer, of a random kind; see ``INSTRUCTIONS`` (``region`` also asks about single points)."""
    said = [world.WORLD_NAMES[i] for i in rng.permutation(visible)]
    kind = rng.choice(
        ["caption", "infill", "match", "words", "region", "point", "what"], p=[0.1, 0.06, 0.07, 0.16, 0.22, 0.27, 0.12]
    )
    caption = " and ".join(said[: rng.integers(1, min(3, len(said)) + 1)])
    if kind == "caption":
        return INSTRUCTIONS["caption"], caption
    if kind == "infill":
        words = caption.split()
        hidden = rng.random(len(words)) < 0.4
        return INSTRUCTIONS["infill"].format(" ".join(np.where(hidden, "<mask>", words))), caption
    if kind == "match":
        absent = [i for i in (*world.SEEN, *range(len(world.NAMES), len(world.WORLD_NAMES))) if i not in visible]
        true = rng.random() < 0.5
        asked = said[0] if true else world.WORLD_NAMES[int(rng.choice(absent))]
        return INSTRUCTIONS["match"].format(asked), "yes" if true else "no"
    if kind == "words":
        return INSTRUCTIONS["words"], " ".join(world.WORLD_NAMES[i] for i in sorted(visible))
    if kind == "what":
        return _about_a_cue(rng, visible)
    return _about_a_region(rng, scene, point=kind == "point")


def _about_a_cue(rng: np.random.Generator, visible: list[int]) -> tuple[str, str]:
    """ "what shape is red plain?": two cues of an object are given, the third is asked."""
    objects = [i for i in visible if i < len(world.NAMES)]
    if not objects:
        return INSTRUCTIONS["words"], " ".join(world.WORLD_NAMES[i] for i in sorted(visible))
    words = world.NAMES[int(rng.choice(objects))].split()
    asked = int(rng.integers(3))
    given = " ".join(word for k, word in enumerate(words) if k != asked)
    return f"what {('color', 'texture', 'shape')[asked]} is the {given} object?", words[asked]


def _about_a_region(rng: np.random.Generator, scene: world.Scene, point: bool) -> tuple[str, str]:
    """A thing's box, or a small box near the middle of one; the answer is the topmost thing whose box holds it."""
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
    return INSTRUCTIONS["region"].format(" ".join(f"<bin_{b}>" for b in bins)), world.WORLD_NAMES[kind]
