"""Colours that people tell apart: distances as eyes with and without a colour deficiency see them, and contrast of text.

Deficiencies are simulated by the matrices of Machado, Oliveira and Fernandes (2009) at full severity, on linear RGB;
distances are Euclidean in CIELAB, where about 2 can just be seen side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
_WHITE = _XYZ.sum(1)
ROUNDS = 20  # of looking for a better colour for each class in turn
REFINED = 64  # classes up to which that is worth the time


def linear(rgb: NDArray[np.uint8]) -> Floats:
    """(..., 3) of the light that sRGB bytes stand for, 0 to 1."""
    value = np.asarray(rgb, np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.uint8], vision: str = "usual") -> Floats:
    """(..., 3) CIELAB of sRGB bytes as somebody sees them."""
    seen = np.clip(linear(rgb) @ VISIONS[vision].T, 0, 1)
    ratio = seen @ _XYZ.T / _WHITE
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def distances(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Floats:
    """(N, M) between colours (N, 3) and (M, 3), for whoever sees the least difference."""
    return np.min([np.linalg.norm(lab(a, eye)[:, None] - lab(b, eye)[None], axis=-1) for eye in VISIONS], axis=0)


def contrast(a: Sequence[int], b: Sequence[int]) -> float:
    """Of text on its ground, 1 to 21 (WCAG 2.2)."""
    light, dark = sorted((float(linear(np.array(colour, np.uint8)) @ _XYZ[1]) for colour in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def ink_on(ground: Sequence[int]) -> str:
    """Black or white, whichever is read better: at least 4.58 on any ground."""
    return "#000" if contrast(ground, (0, 0, 0)) >= contrast(ground, (255, 255, 255)) else "#fff"


def grid(levels: int = 14) -> NDArray[np.uint8]:
    """(levels ** 3, 3) colours of the whole RGB cube."""
    steps = np.linspace(0, 255, levels).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)


def spread(allowed: Sequence[NDArray[np.bool_]], taken: NDArray[np.uint8], candidates: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A colour for each class, far from those of the others and from those that are taken.

    The class with the fewest candidates chooses first; then each looks, in turn, for one that is farther from its nearest.

    Args:
        allowed: (C,) for each class, which of the candidates fit it.
        taken: (M, 3) colours that are used for something else.
        candidates: (C, 3).
    """
    chosen = np.zeros(len(allowed), np.int64)
    nearest = distances(candidates, taken).min(1)
    for k in sorted(range(len(allowed)), key=lambda k: int(allowed[k].sum())):
        chosen[k] = np.where(allowed[k], nearest, -1).argmax()
        nearest = np.minimum(nearest, distances(candidates, candidates[chosen[k]][None])[:, 0])
    if len(allowed) <= REFINED:
        _refine(chosen, allowed, taken, candidates)
    return candidates[chosen]


def _refine(
    chosen: NDArray[np.int64], allowed: Sequence[NDArray[np.bool_]], taken: NDArray[np.uint8], candidates: NDArray[np.uint8]
) -> None:
    to_taken = distances(candidates, taken).min(1)
    to_chosen = distances(candidates, candidates[chosen])  # (C, K)
    for _ in range(ROUNDS):
        moved = False
        for k, fits in enumerate(allowed):
            others = np.delete(to_chosen, k, 1).min(1, initial=np.inf)
            reach = np.where(fits, np.minimum(others, to_taken), -1)
            if reach.max() > reach[chosen[k]] + 1e-9:
                chosen[k], moved = reach.argmax(), True
                to_chosen[:, k] = distances(candidates, candidates[chosen[k]][None])[:, 0]
        if not moved:
            return
