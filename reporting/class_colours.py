"""The colour of each class name on a page: the same in every section, fitting the name where it says a colour."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from common.colours import grid, lab, spread

Colours = dict[str, tuple[int, int, int]]

BACKGROUND = (16, 16, 16)
NOT_COUNTED = (255, 255, 255)
# word -> hue in degrees of CIELAB from, to; chroma from, to; lightness from, to
FITTING: dict[str, tuple[int, int, int, int, int, int]] = {
    "red": (10, 48, 35, 130, 25, 80),
    "orange": (52, 78, 40, 130, 45, 85),
    "yellow": (84, 112, 45, 130, 50, 97),
    "green": (118, 172, 25, 130, 25, 92),
    "blue": (235, 297, 25, 140, 20, 88),
    "purple": (306, 335, 25, 130, 20, 80),
    "pink": (335, 370, 15, 60, 65, 92),
    "black": (0, 360, 0, 6, 0, 25),
    "white": (0, 360, 0, 6, 88, 97),
    "grass": (108, 150, 20, 80, 25, 85),
    "tree": (108, 160, 20, 80, 20, 70),
    "sand": (65, 95, 12, 45, 65, 90),
    "brick": (35, 62, 20, 70, 25, 65),
    "sky": (215, 270, 12, 60, 60, 92),
    "water": (190, 260, 10, 70, 25, 85),
    "sea": (190, 260, 10, 70, 25, 85),
}


def class_colours(names: Iterable[str]) -> Colours:
    """By name, RGB. Up to some sixty are 10 or more apart in CIELAB with any colour vision; 171 of COCO-Stuff only 5.

    A name's colour depends on the other names, so one call is for one page.
    """
    classes = [name for name in dict.fromkeys(names) if name != "background"]
    candidates = grid()
    allowed = [_fitting(name, lab(candidates)) for name in classes]
    taken = np.array([NOT_COUNTED, BACKGROUND], np.uint8)
    found = spread(allowed, taken, candidates).tolist() if classes else []
    return {"background": BACKGROUND} | {name: tuple(rgb) for name, rgb in zip(classes, found, strict=True)}


def palette(names: Iterable[str], colours: Colours) -> NDArray[np.uint8]:
    """(K, 3) in train-id order."""
    return np.array([colours[name] for name in names], np.uint8)


def css(rgb: Iterable[int]) -> str:
    """``#rrggbb``."""
    return "#" + bytes(rgb).hex()


def _fitting(name: str, colours_C3: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(C,) which colours the name's first word of the table allows; without one, all."""
    word = next((word for word in name.lower().replace("-", " ").split() if word in FITTING), None)
    if word is None:
        return np.ones(len(colours_C3), bool)
    hue_from, hue_to, chroma_from, chroma_to, light_from, light_to = FITTING[word]
    light, a, b = colours_C3.T
    hue, chroma = np.degrees(np.arctan2(b, a)) % 360, np.hypot(a, b)
    turned = (hue - hue_from) % 360 <= (hue_to - hue_from)
    return turned & (chroma >= chroma_from) & (chroma <= chroma_to) & (light >= light_from) & (light <= light_to)
