"""The world of the embedded benchmark: scenes of textured shapes on named grounds, drawn from a formula.

A scene is a list of objects and a few grounds in world units (the short side is 1); a photograph is a window into it.
Everything follows from ``(seed, split, index)``, so there is nothing to download and every mask is exact.

An object's name is a colour, a texture and a shape, ``"red striped disc"``. The 16 names are a Latin square over the
field GF(4): every colour, texture and shape occurs in four of them, and two names share one cue at most, so no single
cue names an object. Four names (one per colour, texture and shape) are held out: they are in no training picture and
in no caption, and form the open-vocabulary label space ``shapes_open``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS = ("red", "green", "blue", "yellow")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SHAPES = ("disc", "square", "triangle", "star")
GROUNDS = ("grass", "sand", "water", "brick")
SPLITS = {"train": 0, "val": 1, "test": 2}

_RGB = np.array([[0.80, 0.20, 0.18], [0.22, 0.62, 0.24], [0.20, 0.34, 0.80], [0.86, 0.76, 0.22]])
_GROUND_RGB = np.array([[0.30, 0.52, 0.22], [0.80, 0.70, 0.46], [0.26, 0.44, 0.66], [0.62, 0.34, 0.28]])
_TIMES_OMEGA = (0, 2, 3, 1)  # multiplication by a generator of GF(4); addition is exclusive or

CUES = tuple((colour, texture, colour ^ texture) for texture in range(4) for colour in range(4))
NAMES = tuple(f"{COLOURS[c]} {TEXTURES[t]} {SHAPES[s]}" for c, t, s in CUES)
HELD_OUT = tuple(i for i, (c, t, _) in enumerate(CUES) if c == _TIMES_OMEGA[t])
SEEN = tuple(i for i in range(16) if i not in HELD_OUT)
WORLD_NAMES = NAMES + GROUNDS  # world id = position here; 0..15 objects, 16..19 grounds

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """One rendered photograph: ``image`` (H, W, 3) uint8 and ``world_ids`` (H, W) uint8 into ``WORLD_NAMES``.

    ``boxes`` lists (world id, top, left, bottom, right) in pixels, grounds first, an object after what it covers.
    """

    image: NDArray[np.uint8]
    world_ids: NDArray[np.uint8]
    boxes: tuple[Box, ...] = ()

    def visible(self, share: float = 0.03) -> tuple[int, ...]:
        """World ids that cover at least ``share`` of the picture, largest first."""
        counts = np.bincount(self.world_ids.ravel(), minlength=len(WORLD_NAMES))
        order = np.argsort(-counts, kind="stable")
        return tuple(int(i) for i in order if counts[i] >= share * self.world_ids.size)


def random_source(seed: int, split: str, index: int) -> np.random.Generator:
    """The one source of randomness of picture ``index``."""
    return np.random.default_rng([seed, SPLITS[split], index])


def render(
    rng: np.random.Generator,
    height: int,
    width: int,
    zoom: float = 1.0,
    classes: tuple[int, ...] = SEEN,
) -> Scene:
    """Draws a scene and photographs it.

    Args:
        rng: source of randomness, see :func:`random_source`.
        height: rows of the photograph, pixels.
        width: columns of the photograph, pixels.
        zoom: 1 shows the whole scene (short side = 1 world unit); z shows a random window of side 1/z.
        classes: world ids of the objects that may occur.
    """
    short = min(height, width)
    extent_y, extent_x = height / short, width / short
    top = rng.random() * extent_y * (1 - 1 / zoom)
    left = rng.random() * extent_x * (1 - 1 / zoom)
    y = (top + (np.arange(height, dtype=np.float32) + 0.5) / (short * zoom))[:, None]
    x = (left + (np.arange(width, dtype=np.float32) + 0.5) / (short * zoom))[None, :]
    y, x = np.broadcast_arrays(y.astype(np.float32), x.astype(np.float32))

    image, ids = _paint_grounds(rng, y, x, extent_y, extent_x)
    boxes = [_box(int(kind), ids == kind) for kind in np.unique(ids)]
    count = rng.integers(3, 6) + int(extent_y * extent_x > 1.2)
    for _ in range(count):
        kind = int(rng.choice(classes))
        inside = _paint_object(rng, y, x, extent_y, extent_x, kind, image, ids)
        if inside is not None:
            boxes.append(_box(kind, inside))
    return Scene(_photograph(rng, y, x, image), ids, tuple(boxes))


def _box(kind: int, inside: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return kind, int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _paint_grounds(
    rng: np.random.Generator, y: Floats, x: Floats, extent_y: float, extent_x: float
) -> tuple[Floats, NDArray[np.uint8]]:
    """Two or three grounds, each where its wavy-edged Voronoi cell is."""
    kinds = rng.permutation(len(GROUNDS))[: rng.integers(2, 4)]
    phase, sway = rng.random(4) * 2 * np.pi, 0.03 + 0.05 * rng.random()
    wy = y + sway * np.sin(7 * x + phase[0]) + 0.4 * sway * np.sin(19 * x + phase[1])
    wx = x + sway * np.sin(7 * y + phase[2]) + 0.4 * sway * np.sin(19 * y + phase[3])
    centres = rng.random((len(kinds), 2)) * [extent_y, extent_x]
    cell = np.argmin([(wy - cy) ** 2 + (wx - cx) ** 2 for cy, cx in centres], axis=0)
    image = np.empty((*y.shape, 3), np.float32)
    ids = np.empty(y.shape, np.uint8)
    for i, kind in enumerate(kinds):
        where = cell == i
        shade = 1 + _ground_relief(rng, int(kind), y[where], x[where])
        tint = _GROUND_RGB[kind] * (1 + 0.24 * (rng.random(3) - 0.5))
        image[where] = shade[:, None] * tint.astype(np.float32)
        ids[where] = len(NAMES) + kind
    return image, ids


def _ground_relief(rng: np.random.Generator, kind: int, y: Floats, x: Floats) -> Floats:
    """Relative brightness of a ground's texture, at about 10 to 30 features per world unit."""
    a, b = rng.random(2) * 2 * np.pi
    if kind == 0:  # blades
        return 0.35 * np.sin(70 * x + 6 * np.sin(23 * y + a)) * np.sin(31 * y + b)
    if kind == 1:  # grains
        return 0.30 * (rng.random(y.shape, dtype=np.float32) - 0.5)
    if kind == 2:  # waves
        return 0.28 * np.sin(44 * y + 2.0 * np.sin(9 * x + a) + b)
    row = np.floor(y * 14 + a)  # courses of bricks
    mortar = (np.modf(y * 14 + a)[0] < 0.18) | (np.modf(x * 7 + 0.5 * (row % 2) + b)[0] < 0.09)
    return np.where(mortar, np.float32(0.45), np.float32(0))


def _paint_object(
    rng: np.random.Generator,
    y: Floats,
    x: Floats,
    extent_y: float,
    extent_x: float,
    kind: int,
    image: Floats,
    ids: NDArray[np.uint8],
) -> NDArray[np.bool_] | None:
    """Draws one object over what is there (occlusion); returns where it is, None if it is out of the picture."""
    colour, texture, shape = CUES[kind]
    cy, cx = rng.random() * extent_y, rng.random() * extent_x
    radius, angle = 0.15 + 0.13 * rng.random(), rng.random() * 2 * np.pi
    jitter, contrast, phase = rng.random(3), 0.45 + 0.25 * rng.random(), rng.random(2) * 6.28
    rows = np.flatnonzero(np.abs(y[:, 0] - cy) < 1.5 * radius)
    columns = np.flatnonzero(np.abs(x[0] - cx) < 1.5 * radius)
    if not len(rows) or not len(columns):
        return None
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    dy, dx = (y[box] - cy) / radius, (x[box] - cx) / radius
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = np.cos(angle) * dy - np.sin(angle) * dx
    inside = _inside(shape, u, v)
    relief = contrast * _pattern(texture, u + 0.1 * phase[0], v + 0.1 * phase[1])[..., None]
    tint = np.clip(_RGB[colour] + 0.16 * (jitter - 0.5), 0.03, 1).astype(np.float32)
    painted = tint * (1 + np.minimum(relief, 0)) + (1 - tint) * np.clip(relief, 0, 0.9)
    image[box][inside] = painted[inside]
    ids[box][inside] = kind
    whole = np.zeros(ids.shape, np.bool_)
    whole[box] = inside
    return whole if inside.any() else None


def _inside(shape: int, u: Floats, v: Floats) -> NDArray[np.bool_]:
    """Membership in the unit shape; areas are about equal (the disc of radius 0.95)."""
    if shape == 0:
        return u * u + v * v < 0.90
    if shape == 1:
        return np.maximum(np.abs(u), np.abs(v)) < 0.85
    if shape == 2:
        return (v > -0.66) & (0.866 * np.abs(u) + 0.5 * v < 0.66)
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    spike = np.abs((theta * 2.5 / np.pi) % 1 - 0.5) * 2  # 1 at a point of the star, 0 at a notch
    return r < 0.5 + 0.5 * spike


def _pattern(texture: int, u: Floats, v: Floats) -> Floats:
    """Relative brightness of a texture, about four periods across the object: dark stripes, light dots, dark checks."""
    if texture == 0:
        return np.zeros_like(u)
    if texture == 1:
        return np.where(np.sin(12.6 * u) > 0, np.float32(-0.9), np.float32(0))
    if texture == 2:
        du, dv = np.modf(2 * u + 8)[0] - 0.5, np.modf(2 * v + 8)[0] - 0.5
        return np.where(du * du + dv * dv < 0.09, np.float32(1.6), np.float32(0))
    return np.where(np.sin(9 * u) * np.sin(9 * v) > 0, np.float32(-1.2), np.float32(0))


def _photograph(rng: np.random.Generator, y: Floats, x: Floats, image: Floats) -> NDArray[np.uint8]:
    """Light (level, tint, gradient), a little blur, sensor noise."""
    level, tint = 0.8 + 0.35 * rng.random(), 1 + 0.12 * (rng.random(3) - 0.5)
    slope = 0.4 * (rng.random(2) - 0.5)
    image = image * (level * tint).astype(np.float32)
    image *= (1 + slope[0] * (y - 0.5) + slope[1] * (x - 0.5))[..., None].astype(np.float32)
    blur = np.float32(0.5 * rng.random())
    for axis in (0, 1):
        image = (1 - blur) * image + 0.5 * blur * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
    noise = (0.015 + 0.03 * rng.random()) * (rng.random(image.shape, dtype=np.float32) - 0.5) * 3.46
    return (np.clip(image + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
