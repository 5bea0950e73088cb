"""Distances as eyes see them, contrast of text, and colours of class names."""

import colorsys
import itertools

import numpy as np
import pytest

from common.colours import VISIONS, contrast, distances, grid, ink_on, lab
from evaluation import Vocabulary
from reporting.class_colours import NOT_COUNTED, class_colours

APART = 10  # in CIELAB; about 2 can just be seen side by side
SHAPES = [name for words in ("shapes13", "shapes16", "shapes_open") for name in Vocabulary.load(words).names]
HUES = {"red": 0, "yellow": 60, "green": 120, "blue": 240}


def test_known_values() -> None:
    assert lab(np.array([255, 0, 0])) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert lab(np.array([0, 0, 255])) == pytest.approx([32.30, 79.19, -107.86], abs=0.02)
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((255, 255, 255), (0x76, 0x76, 0x76)) == pytest.approx(4.54, abs=0.005)


def test_a_deficiency_keeps_greys_and_takes_away_differences() -> None:
    greys = np.repeat(np.arange(0, 256, 15)[:, None], 3, 1)
    for vision in VISIONS:
        assert np.abs(lab(greys, vision) - lab(greys)).max() < 0.5
    red, green = np.array([[200, 60, 50]]), np.array([[100, 130, 50]])
    usual, deutan = (np.linalg.norm(lab(red, eye) - lab(green, eye)) for eye in ("usual", "deuteranopia"))
    assert deutan < usual / 3
    assert distances(red, green)[0, 0] <= deutan


def test_text_is_read_on_any_ground() -> None:
    inks = {"#000": (0, 0, 0), "#fff": (255, 255, 255)}
    assert min(contrast(ground, inks[ink_on(ground)]) for ground in grid(9).tolist()) >= 4.5


@pytest.mark.parametrize("names", [SHAPES, Vocabulary.load("voc21").names], ids=["shapes", "voc21"])
@pytest.mark.parametrize("vision", VISIONS)
def test_every_two_classes_are_told_apart_with_any_colour_vision(names: list[str], vision: str) -> None:
    colours = class_colours(names) | {"not counted": NOT_COUNTED}
    assert len(colours) == len(set(names)) + 1
    for (one, a), (other, b) in itertools.combinations(colours.items(), 2):
        assert np.linalg.norm(lab(np.array(a), vision) - lab(np.array(b), vision)) >= APART, (one, other)


def test_colours_fit_the_names_that_say_one() -> None:
    for name, rgb in class_colours(SHAPES).items():
        if (word := name.split()[0]) in HUES:
            hue = 360 * colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))[0]
            assert abs((hue - HUES[word] + 180) % 360 - 180) < 60, (name, rgb)


def test_hundreds_of_classes_still_have_colours_of_their_own() -> None:
    names = Vocabulary.load("coco_stuff171").names
    found = np.array(list(class_colours(names).values()))
    apart = distances(found, found) + 999 * np.eye(len(found))
    assert apart.min() > 4
