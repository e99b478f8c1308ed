"""Draws street scenes as photo | mask pairs: a data set for demos and tests that needs no download.

The world is measured in metres (x to the right, y up, z away from the camera, y = 0 is the
ground) and projected through one camera, so perspective and scale come by themselves. A scene
depends on the generator alone, not on the size in pixels.

  python -m pipeline.synthesize --output_dir=DIR --train=400 --val=80 --size=256 --seed=0
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from absl import flags
from tqdm import tqdm

from pipeline import cli
from pipeline.errors import UserError
from pipeline.palette import CITYSCAPES, IGNORE_LABEL

# These names are common ones: whoever imports this module may define them anew.
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder to write; must not exist or be empty.", allow_override=True
)
_TRAIN = flags.DEFINE_integer("train", 400, "Pairs in train/.", allow_override=True)
_VAL = flags.DEFINE_integer("val", 80, "Pairs in val/.", allow_override=True)
_SIZE = flags.DEFINE_integer(
    "size", 256, "Height of a pair and width of each half, in pixels.", allow_override=True
)
_SEED = flags.DEFINE_integer("seed", 0, "Another seed, other scenes.", allow_override=True)

MIN_SIZE, MAX_SIZE = 64, 1024

# fmt: off
(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN,
 SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(19)
# fmt: on

_SUBSAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}

_NEAR = 0.8  # Metres; what lies nearer is pulled out to here, below the picture's edge.
_END = 90.0  # Metres to the end of the street.
_SUBPIXEL_BITS = 4

Rng = np.random.Generator
Thing = Callable[["Canvas", Rng], None]


class Canvas:
    """A photo and its labels, drawn together through one camera.

    Shapes are collected and then projected at once: one by one that would take most of the time.

    Attributes:
      size: Height and width in pixels.
      haze: The colour that distant things fade to, float [3].
      sun: The side the light comes from, -1 or 1.
    """

    def __init__(self, rng: Rng, size: int) -> None:
        self.size = size
        self.haze = np.full(3, 200.0)
        self.haze_distance = rng.uniform(90, 400)
        self.sun = int(rng.choice([-1, 1]))
        self.horizon = rng.uniform(0.36, 0.52)
        self.vanishing_x = rng.uniform(0.35, 0.65)
        self.eye = rng.uniform(1.5, 2.3)
        self.focal = np.array([rng.uniform(0.65, 0.85), rng.uniform(0.85, 1.1)])
        self._shapes: list[tuple[np.ndarray, np.ndarray, int | None]] = []

    def fill(self, points: np.ndarray, color: np.ndarray, label: int) -> None:
        """Paints one polygon [V, 3] or many disjoint ones [N, V, 3] of the world."""
        if points.size:
            self._shapes.append((points, color, label))

    def shade(self, points: np.ndarray, factor: float) -> None:
        """Darkens the photo within a polygon [V, 3]; labels stay."""
        self._shapes.append((points, np.full(3, factor), None))

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points [..., 3] in metres to int32 [..., 2] in sixteenths of a pixel."""
        relative = (points[..., :2] - (0, self.eye)) * self.focal * (1, -1)
        on_screen = relative / np.maximum(points[..., 2:], _NEAR) + (self.vanishing_x, self.horizon)
        return np.round(on_screen * (self.size << _SUBPIXEL_BITS)).astype(np.int32)

    def render(self, pixels: np.ndarray) -> None:
        """Draws everything collected, in the order it came.

        Args:
          pixels: uint8 [size, size, 4] to draw into: red, green, blue and train id. One array, so
            that one call paints both and the label cannot disagree with the photo.
        """
        points = np.concatenate([shape[0].reshape(-1, 3) for shape in self._shapes])
        counts = np.array([shape[0].size // 3 for shape in self._shapes])
        starts = np.cumsum(counts) - counts
        corners = self.project(points)
        depths = np.add.reduceat(points[:, 2], starts) / counts
        fade = 1 - np.exp(-depths / self.haze_distance)[:, None]
        colors = np.stack([shape[1] for shape in self._shapes])
        hazy = (colors + (self.haze - colors) * fade).clip(0, 255).tolist()
        for i, (shape, color, label) in enumerate(self._shapes):
            polygons = corners[starts[i] : starts[i] + counts[i]].reshape(-1, shape.shape[-2], 2)
            if label is None:
                _darken(pixels, polygons[0], color[0])
            else:  # without anti-aliasing: a label has no half tones
                value = (*hazy[i], label)
                cv2.fillPoly(pixels, list(polygons), value, cv2.LINE_8, _SUBPIXEL_BITS)


def _darken(pixels: np.ndarray, corners: np.ndarray, factor: float) -> None:
    """Multiplies red, green and blue within a polygon, touching only its surroundings."""
    low, high = (corners.min(0) >> _SUBPIXEL_BITS) - 1, (corners.max(0) >> _SUBPIXEL_BITS) + 2
    (x0, y0), (x1, y1) = np.maximum(low, 0), np.clip(high, 0, len(pixels))
    if x0 >= x1 or y0 >= y1:
        return
    region = pixels[y0:y1, x0:x1, :3]
    mask = np.zeros(region.shape[:2], np.uint8)
    origin = np.array([x0, y0]) << _SUBPIXEL_BITS
    cv2.fillPoly(mask, [(corners - origin).astype(np.int32)], 1, cv2.LINE_8, _SUBPIXEL_BITS)
    region[...] = region * np.array([1, factor], np.float32)[mask][..., None]


# Shapes: world points [V, 3].


def _front(x0: float, x1: float, y0: float, y1: float, z: float) -> np.ndarray:
    return np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])


def _side(x: float, y0: float, y1: float, z0: float, z1: float) -> np.ndarray:
    return np.array([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)])


def _flat(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> np.ndarray:
    return np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)])


def _disc(x: float, y: float, z: float, rx: float, ry: float, corners: int = 12) -> np.ndarray:
    return _circle(corners) * (rx, ry, 0) + (x, y, z)


@functools.cache
def _circle(corners: int) -> np.ndarray:
    angle = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    return np.stack([np.cos(angle), np.sin(angle), np.zeros(corners)], -1)


def _bar(x0: float, y0: float, x1: float, y1: float, z: float, width: float) -> np.ndarray:
    """A straight stroke from one point to another, facing the camera."""
    scale = 0.5 * width / math.hypot(x1 - x0, y1 - y0)
    u, v = (y0 - y1) * scale, (x1 - x0) * scale
    return np.array(
        [(x0 + u, y0 + v, z), (x1 + u, y1 + v, z), (x1 - u, y1 - v, z), (x0 - u, y0 - v, z)]
    )


def _blob(rng: Rng, x: float, y: float, z: float, rx: float, ry: float) -> np.ndarray:
    """A disc with a ragged edge."""
    ragged = _circle(24) * rng.uniform(0.78, 1.22, (24, 1))
    return ragged * (rx, ry, 0) + (x, y, z)


def _box(canvas: Canvas, x: tuple, y: tuple, z: tuple, color: np.ndarray, label: int) -> None:
    """The visible faces of an upright box, each lit in its own way."""
    if y[1] < canvas.eye:
        canvas.fill(_flat(*x, *z, y[1]), color * 1.2, label)
    if x[0] > 0 or x[1] < 0:
        near = x[0] if x[0] > 0 else x[1]
        canvas.fill(_side(near, *y, *z), color * (1.05 if near * canvas.sun < 0 else 0.7), label)
    canvas.fill(_front(*x, *y, z[0]), color * 0.9, label)


def _gray(rng: Rng, low: float, high: float, tint: float = 6) -> np.ndarray:
    return rng.uniform(low, high) + rng.normal(0, tint, 3)


def _paint(rng: Rng) -> np.ndarray:
    """A colour that something was lacquered or dyed in: often a grey, else anything."""
    if rng.random() < 0.5:
        return _gray(rng, 25, 225)
    return rng.uniform(20, 200, 3) * rng.uniform(0.5, 1.2)


def _green(rng: Rng) -> np.ndarray:
    """Leaves and grass: from nearly black through yellowish to dry brown."""
    fresh, dry = np.array([62.0, 92, 42]), np.array([126.0, 108, 66])
    return (fresh + (dry - fresh) * rng.beta(1, 2)) * rng.uniform(0.55, 1.3) + rng.normal(0, 6, 3)


def _spaced(rng: Rng, start: float, end: float, gap: float) -> Iterator[float]:
    """Distances between start and end, about `gap` apart."""
    z = start + rng.uniform(0, gap)
    while z < end:
        yield z
        z += gap * rng.uniform(0.7, 1.6)


# What stands still.

_SKIES = np.array(  # colours at the zenith and at the horizon
    [
        [(88, 132, 190), (190, 208, 224)],  # clear
        [(150, 160, 172), (196, 200, 204)],  # overcast
        [(205, 208, 212), (230, 230, 228)],  # white
        [(112, 112, 140), (224, 178, 146)],  # low sun
        [(128, 146, 160), (160, 162, 160)],  # dull
    ]
)


def _draw_sky(canvas: Canvas, rng: Rng) -> np.ndarray:
    """The empty picture, uint8 [size, size, 4]: a gradient, all of it sky."""
    zenith, horizon = _SKIES[rng.integers(len(_SKIES))] + rng.normal(0, 8, (2, 3))
    ramp = np.linspace(0, 1 / canvas.horizon, canvas.size).clip(0, 1)[:, None, None]
    pixels = np.full((canvas.size, canvas.size, 4), SKY, np.uint8)
    pixels[..., :3] = (zenith + (horizon - zenith) * ramp).clip(0, 255)
    canvas.haze = horizon
    return pixels


def _draw_ground(canvas: Canvas, rng: Rng) -> dict[int, tuple[float, float, float]]:
    """Road, sidewalks and grass; gives each side's kerb, sidewalk's end and building line."""
    canvas.fill(_flat(-400, 400, _NEAR, 4 * _END), _green(rng), TERRAIN)
    paving, edges = _gray(rng, 95, 175), {}
    for side in (-1, 1):
        kerb = side * rng.uniform(3, 4.8)
        verge = kerb + side * max(0.0, rng.uniform(-2.5, 2.5))
        walk = verge + side * rng.uniform(2, 5)
        line = walk + side * max(0.0, rng.uniform(-3, 5))
        canvas.fill(_flat(kerb, line, _NEAR, _END), _green(rng), TERRAIN)
        canvas.fill(_flat(verge, walk, _NEAR, _END), paving, SIDEWALK)
        joints = [_flat(verge, walk, z, z + 0.06) for z in np.arange(1.5, 22, 1.2)]
        canvas.fill(np.stack(joints), paving * 0.8, SIDEWALK)
        canvas.fill(_flat(kerb, kerb + side * 0.25, _NEAR, _END), paving * 1.15, SIDEWALK)
        edges[side] = kerb, walk, line
    _draw_road(canvas, rng, edges[-1][0], edges[1][0])
    return edges


def _draw_road(canvas: Canvas, rng: Rng, left: float, right: float) -> None:
    asphalt = _gray(rng, 75, 140, tint=4)
    canvas.fill(_flat(left, right, _NEAR, _END), asphalt, ROAD)
    for z in _spaced(rng, 2, 30, 9):  # mended places
        x = rng.uniform(left, right - 1)
        patch = _flat(x, min(x + 2, right), z, z + rng.uniform(1, 5))
        canvas.fill(patch, asphalt * rng.uniform(0.75, 1.2), ROAD)
    white = _gray(rng, 190, 230, tint=4)
    if rng.random() < 0.3:  # zebra crossing
        z, x = rng.uniform(6, 16), np.arange(left + 0.3, right - 0.5, 1.0)
        canvas.fill(np.stack([_flat(x0, x0 + 0.5, z, z + 3) for x0 in x]), white, ROAD)
    if rng.random() < 0.8:
        middle, dash = (left + right) / 2, rng.uniform(2, 4)
        dashes = np.arange(rng.uniform(1, 5), 60, 2.2 * dash)
        marks = [_flat(middle - 0.08, middle + 0.08, z, z + dash) for z in dashes]
        canvas.fill(np.stack(marks), white, ROAD)
    if rng.random() < 0.5:
        for x in (left + 0.4, right - 0.4):
            canvas.fill(_flat(x - 0.06, x + 0.06, _NEAR, _END), white, ROAD)


def _draw_windows(
    canvas: Canvas, rng: Rng, origin: tuple, along: tuple, length: float, height: float
) -> None:
    """A grid of windows on an upright wall that runs from `origin` in the direction `along`."""
    bay, storey = rng.uniform(1.8, 3), rng.uniform(2.7, 3.4)
    columns, rows = int(length / bay), int((height - 0.4) / storey)
    if not columns or not rows:
        return
    u = (np.arange(columns)[:, None] + np.array([0.22, 0.78, 0.78, 0.22])) * length / columns
    v = (np.arange(rows)[:, None] + np.array([0.3, 0.3, 0.85, 0.85])) * storey
    points = np.array(origin) + u[:, None, :, None] * np.array(along, float)
    points = points + v[None, :, :, None] * np.array([0.0, 1, 0])
    points = points.reshape(-1, 4, 3)
    glass = _gray(rng, 30, 150, tint=12)
    lit = rng.random(len(points)) < 0.15
    canvas.fill(points[~lit], glass, BUILDING)
    canvas.fill(points[lit], glass * (1.6, 1.5, 1.2), BUILDING)


def _draw_building(canvas: Canvas, rng: Rng, line: float, z0: float, z1: float) -> None:
    side, height = int(np.sign(line)), rng.choice([3.5, 6.5, 9.5, 12.5, 16]) + rng.uniform(0, 1.5)
    plaster = np.array([(175, 165, 145), (150, 95, 75), (140, 140, 140), (200, 195, 185)])
    wall = plaster[rng.integers(4)] * rng.uniform(0.6, 1.1) + rng.normal(0, 6, 3)
    back = line + side * 12
    lit, dim = (1.1, 0.7) if side != canvas.sun else (0.7, 1.0)
    if rng.random() < 0.5:  # a pitched roof
        ridge, roof = line + side * 5, _gray(rng, 40, 110, 15)
        slope = np.array([(line, height, z0), (line, height, z1)])
        slope = np.concatenate([slope, [(ridge, height + 3.5, z1), (ridge, height + 3.5, z0)]])
        gable = [(line, height, z0), (back, height, z0), (ridge, height + 3.5, z0)]
        canvas.fill(np.array(gable), wall * dim, BUILDING)
        canvas.fill(slope, roof, BUILDING)
    canvas.fill(_front(line, back, 0, height, z0), wall * dim, BUILDING)
    _draw_windows(canvas, rng, (line, 0, z0), (side, 0, 0), 12, height)
    canvas.fill(_side(line, 0, height, z0, z1), wall * lit, BUILDING)
    canvas.fill(_side(line, 0, rng.uniform(0.3, 1), z0, z1), wall * lit * 0.7, BUILDING)
    _draw_windows(canvas, rng, (line, 0, z0), (0, 0, 1), z1 - z0, height)


def _draw_barrier(canvas: Canvas, rng: Rng, x: float, z0: float, z1: float) -> None:
    """A wall in courses of stone, or a fence of bars."""
    height, color = rng.uniform(1.2, 2.6), _gray(rng, 70, 170, 12)
    if rng.random() < 0.5:
        canvas.fill(_side(x, 0, height, z0, z1), color, WALL)
        courses = [_side(x, y, y + 0.06, z0, z1) for y in np.arange(0.3, height, 0.35)]
        canvas.fill(np.stack(courses), color * 0.75, WALL)
        canvas.fill(_side(x, height, height + 0.12, z0, z1), color * 1.2, WALL)
    else:
        canvas.fill(_side(x, 0, height, z0, z1), color * 0.55, FENCE)
        pitch = rng.uniform(0.2, 0.4)
        bars = [_side(x, 0, height, z, z + pitch * 0.45) for z in np.arange(z0, z1, pitch)]
        canvas.fill(np.stack(bars), color, FENCE)
        canvas.fill(_side(x, height * 0.85, height * 0.93, z0, z1), color, FENCE)


def _draw_frontage(canvas: Canvas, rng: Rng, side: int, line: float) -> None:
    """What lines the street, far to near: buildings, and gardens behind walls or fences."""
    ends = np.cumsum([_NEAR, *rng.uniform(7, 18, 12)])
    built_up = rng.uniform(0.3, 0.95)
    for z0, z1 in reversed(list(zip(ends[:-1], ends[1:], strict=True))):
        if z0 > _END:
            continue
        if rng.random() < built_up:
            _draw_building(canvas, rng, line, z0, z1)
            if rng.random() > 0.2:
                continue
        else:
            for z in reversed(list(_spaced(rng, z0, z1, 6))):
                _draw_tree(canvas, rng, line + side * rng.uniform(1.5, 6), z)
        _draw_barrier(canvas, rng, line - side * 0.1, z0, z1)


def _draw_far_end(canvas: Canvas, rng: Rng) -> None:
    """Closes the view: trees or houses across the street's end."""
    wooded = rng.uniform(0, 1)
    for x in _spaced(rng, -60, 60, 9):
        if rng.random() < wooded:
            crown = _blob(rng, x, 2, _END + 5, 7, rng.uniform(4, 10))
            canvas.fill(crown, _green(rng), VEGETATION)
        else:
            height = rng.uniform(5, 18)
            canvas.fill(_front(x, x + 10, 0, height, _END + 5), _gray(rng, 80, 180, 12), BUILDING)
            _draw_windows(canvas, rng, (x, 0, _END + 5), (1, 0, 0), 10, height)


def _draw_tree(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    height, leaves = rng.uniform(4, 8), _green(rng)
    radius = height * rng.uniform(0.22, 0.36)
    trunk = _bar(x, 0, x, height * 0.7, z, height * 0.05)
    canvas.fill(trunk, _gray(rng, 40, 90, 8), VEGETATION)
    canvas.fill(_blob(rng, x, height * 0.7, z, radius, height * 0.32), leaves, VEGETATION)
    for gain in (0.7, 1.25, 0.8, 1.35):
        dx, dy = rng.uniform(-0.5, 0.5, 2) * radius
        clump = _blob(rng, x + dx, height * 0.7 + dy, z, radius * 0.45, radius * 0.4)
        canvas.fill(clump, leaves * gain, VEGETATION)


def _draw_bush(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    height, leaves = rng.uniform(0.6, 1.5), _green(rng)
    canvas.fill(_blob(rng, x, height * 0.4, z, height * 0.9, height * 0.6), leaves, VEGETATION)
    canvas.fill(_blob(rng, x, height * 0.6, z, height * 0.5, height * 0.3), leaves * 1.3, VEGETATION)


def _draw_pole(canvas: Canvas, rng: Rng, x: float, z: float, height: float, arm: float = 0) -> None:
    metal = _gray(rng, 60, 150)
    canvas.fill(_bar(x, 0, x, height, z, 0.16), metal, POLE)
    if arm:
        canvas.fill(_bar(x, height, x + arm, height + 0.3, z, 0.12), metal, POLE)


def _draw_lamp(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    _draw_pole(canvas, rng, x, z, rng.uniform(5, 8), arm=-np.sign(x) * rng.uniform(0.8, 2))


def _draw_sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    height, r = rng.uniform(2.4, 3.2), rng.uniform(0.35, 0.55)
    _draw_pole(canvas, rng, x, z, height)
    red, blue, yellow, white = np.array(
        [(190, 30, 40), (30, 70, 160), (225, 185, 40), (225, 225, 220)]
    ) * rng.uniform(0.75, 1.05)
    corners, rim, inside = [
        (12, red, white),  # prohibition
        (12, blue, blue),  # mandatory
        (3, red, white),  # warning
        (8, red, red),  # stop
        (4, white, blue),  # information
        (4, white, yellow),  # priority
    ][rng.integers(6)]
    plate = _disc(x, height, z, r, r, corners)
    if corners == 3:  # the first corner goes to the top
        plate = np.array([(x - r, height - r / 2, z), (x + r, height - r / 2, z), (x, height + r, z)])
    canvas.fill(plate, rim, TRAFFIC_SIGN)
    canvas.fill(plate.mean(0) + (plate - plate.mean(0)) * 0.65, inside, TRAFFIC_SIGN)
    if corners in (8, 12):
        canvas.fill(_front(x - r / 2, x + r / 2, height - 0.06, height + 0.06, z), white, TRAFFIC_SIGN)


def _draw_traffic_light(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    arm = -np.sign(x) * rng.uniform(1.5, 3) if rng.random() < 0.4 else 0.0
    height = rng.uniform(5, 5.8) if arm else rng.uniform(2.6, 3.2)
    _draw_pole(canvas, rng, x, z, height, arm)
    x, case = x + arm, _gray(rng, 20, 60)
    canvas.fill(_front(x - 0.24, x + 0.24, height - 0.7, height + 0.6, z), case, TRAFFIC_LIGHT)
    on = rng.integers(3)
    for i, lamp in enumerate(np.array([(250, 60, 50), (250, 180, 40), (60, 230, 140)])):
        lens = _disc(x, height + 0.38 - 0.42 * i, z, 0.16, 0.16, 8)
        canvas.fill(lens, lamp if i == on else lamp * 0.3, TRAFFIC_LIGHT)


# What moves.


def _draw_body(
    canvas: Canvas, rng: Rng, label: int, hip: tuple, neck: tuple, feet: list, z: float
) -> None:
    """A person by hip, neck and feet (x, y), sitting or standing."""
    trousers, coat = _paint(rng) * 0.7, _paint(rng)
    skin = np.array([205.0, 165, 140]) * rng.uniform(0.4, 1.1)
    for x, y in feet:
        canvas.fill(_bar(*hip, x, y, z, 0.2), trousers, label)
    canvas.fill(_bar(*hip, *neck, z, 0.46), coat, label)
    hand = neck[0] + rng.uniform(-0.4, 0.4), (hip[1] + neck[1]) / 2 - 0.15
    canvas.fill(_bar(neck[0], neck[1] - 0.1, *hand, z, 0.14), coat * 0.8, label)
    canvas.fill(_disc(neck[0], neck[1] + 0.15, z, 0.13, 0.17), skin, label)
    canvas.fill(_front(neck[0] - 0.12, neck[0] + 0.12, neck[1] + 0.2, neck[1] + 0.33, z),
                _gray(rng, 20, 120, 10), label)


def _draw_person(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    canvas.shade(_flat(x - 0.4, x + 0.4, z - 0.1, z + 0.3), 0.7)
    height, stride = rng.uniform(1.3, 1.95), rng.uniform(0, 0.35)
    feet = [(x - stride, 0.0), (x + stride, 0.0)]
    _draw_body(canvas, rng, PERSON, (x, height * 0.48), (x, height - 0.33), feet, z)


def _draw_cycle(canvas: Canvas, rng: Rng, x: float, z: float, label: int, ridden: bool) -> None:
    """A bicycle or motorcycle with or without its rider, seen from any angle."""
    canvas.shade(_flat(x - 0.8, x + 0.8, z - 0.1, z + 0.3), 0.7)
    turn = rng.choice([-1, 1]) * rng.uniform(0.25, 1)  # how much of its length shows
    heavy, color = label == MOTORCYCLE, _paint(rng)
    for dx in (-0.55 * turn, 0.55 * turn):
        wheel = _disc(x + dx, 0.35, z, max(0.35 * abs(turn), 0.12), 0.35)
        canvas.fill(wheel, _gray(rng, 25, 50), label)
        hub = wheel.mean(0) + (wheel - wheel.mean(0)) * (0.4 if heavy else 0.75)
        canvas.fill(hub, _gray(rng, 70, 130), label)
    width = 0.4 if heavy else 0.12
    canvas.fill(_bar(x - 0.5 * turn, 0.55, x + 0.3 * turn, 0.6, z, width), color, label)
    canvas.fill(_bar(x + 0.55 * turn, 0.35, x + 0.35 * turn, 1.05, z, width * 0.7), color, label)
    canvas.fill(_bar(x - 0.25 * turn, 0.3, x - 0.2 * turn, 0.95, z, width), color * 0.8, label)
    if ridden:
        hip, neck = (x - 0.2 * turn, 0.95), (x + 0.1 * turn, 1.5)
        feet = [(x + 0.15 * turn, 0.3), (x - 0.05 * turn, 0.15)]
        _draw_body(canvas, rng, RIDER, hip, neck, feet, z)


def _draw_wheels(canvas: Canvas, x: float, half: float, z: tuple, r: float, label: int) -> None:
    rubber = np.array([28.0, 28, 30])
    for edge in (-half, half - 0.3):
        canvas.fill(_front(x + edge, x + edge + 0.3, 0, r, z[0]), rubber, label)
    near = x - half if x > 0 else x + half
    for hub in (z[0] + 0.8, z[1] - 0.9):
        wheel = _disc(hub, r, 0, r, r)[:, [2, 1, 0]] + (near, 0, 0)
        canvas.fill(wheel, rubber, label)
        canvas.fill(wheel.mean(0) + (wheel - wheel.mean(0)) * 0.5, rubber + 80, label)


def _draw_ends(canvas: Canvas, x: float, half: float, y: float, z: float, label: int) -> None:
    """Lamps and number plate: red behind, white on what comes towards us in the left lane."""
    lamp = np.array([190.0, 30, 30]) if x > -1 else np.array([250.0, 250, 225])
    for edge in (-half + 0.05, half - 0.4):
        canvas.fill(_front(x + edge, x + edge + 0.35, y, y + 0.2, z), lamp, label)
    canvas.fill(_front(x - 0.26, x + 0.26, y - 0.2, y - 0.05, z), np.full(3, 215.0), label)


def _draw_car(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    color, glass = _paint(rng), _gray(rng, 25, 90)
    half, length, roof = rng.uniform(0.82, 0.95), rng.uniform(3.6, 4.8), rng.uniform(1.4, 1.85)
    canvas.shade(_flat(x - half - 0.2, x + half + 0.3 * -canvas.sun, z - 0.3, z + length), 0.45)
    _box(canvas, (x - half, x + half), (0.28, 0.88), (z, z + length), color, CAR)
    _draw_wheels(canvas, x, half, (z, z + length), 0.32, CAR)
    rear, front, inner = z + rng.uniform(0.1, 0.7), z + length * 0.72, half * 0.84
    near = x - half if x > 0 else x + half
    tip = x - inner if x > 0 else x + inner
    flank = np.array([(near, 0.86, rear - 0.1), (near, 0.86, front + 0.5),
                      (tip, roof, front - 0.3), (tip, roof, rear + 0.2)])
    canvas.fill(flank, color * 0.8, CAR)
    pane = flank.mean(0) + (flank - flank.mean(0)) * (1, 0.65, 0.85)
    canvas.fill(pane, glass, CAR)
    back = np.array([(x - half, 0.86, rear - 0.1), (x + half, 0.86, rear - 0.1),
                     (x + inner, roof, rear + 0.2), (x - inner, roof, rear + 0.2)])
    canvas.fill(back, color, CAR)
    canvas.fill(back.mean(0) + (back - back.mean(0)) * (0.85, 0.62, 1), glass * 1.1, CAR)
    _draw_ends(canvas, x, half, 0.6, z, CAR)


def _draw_truck(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    cargo, length, height = _paint(rng), rng.uniform(6, 9), rng.uniform(2.8, 3.6)
    canvas.shade(_flat(x - 1.5, x + 1.5, z - 0.4, z + length), 0.45)
    _box(canvas, (x - 1.1, x + 1.1), (0.5, 2.4), (z + length - 2, z + length), _paint(rng), TRUCK)
    _box(canvas, (x - 1.2, x + 1.2), (0.9, height), (z, z + length - 2.2), cargo, TRUCK)
    canvas.fill(_front(x - 1.15, x + 1.15, 0.5, 0.9, z), np.array([45.0, 45, 48]), TRUCK)
    _draw_wheels(canvas, x, 1.15, (z, z + length), 0.5, TRUCK)
    canvas.fill(_front(x - 0.03, x + 0.03, 1, height - 0.1, z), cargo * 0.5, TRUCK)
    _draw_ends(canvas, x, 1.15, 0.6, z, TRUCK)


def _draw_coach(canvas: Canvas, rng: Rng, x: float, z: float, label: int) -> None:
    """A bus, or, longer and on rails, a tram (Cityscapes: train)."""
    color, glass = rng.uniform(60, 230, 3), _gray(rng, 25, 80)
    length, height = (rng.uniform(9, 12), 3.0) if label == BUS else (rng.uniform(18, 26), 3.4)
    half, near = 1.25, x - 1.25 if x > 0 else x + 1.25
    canvas.shade(_flat(x - 1.6, x + 1.6, z - 0.4, z + length), 0.45)
    _box(canvas, (x - half, x + half), (0.3, height), (z, z + length), color, label)
    panes = [_side(near, 1.3, 2.4, u, u + 1.3) for u in np.arange(z + 0.3, z + length - 1, 1.6)]
    canvas.fill(np.stack(panes), glass, label)
    canvas.fill(_front(x - half * 0.88, x + half * 0.88, 1.3, 2.5, z), glass, label)
    if label == BUS:
        canvas.fill(_front(x - 0.7, x + 0.7, 2.6, 2.9, z), np.array([230.0, 150, 40]), label)
        _draw_wheels(canvas, x, half, (z, z + length), 0.48, label)
    else:
        canvas.fill(_side(near, 0.3, 0.9, z, z + length), color * 0.5, label)
        canvas.fill(_front(x - half, x + half, 0.3, 0.9, z), color * 0.6, label)
    _draw_ends(canvas, x, half, 0.9, z, label)


def _plan_vehicles(rng: Rng, left: float, right: float) -> Iterator[tuple[float, Thing]]:
    """Traffic in two lanes and cars parked at the kerbs, as (distance, thing)."""
    kinds = [_draw_car, _draw_truck, partial(_draw_coach, label=BUS),
             partial(_draw_coach, label=TRAIN)]
    odds = [0.55, 0.2, 0.19, 0.06]
    for lane in ((left * 0.45), (right * 0.5)):
        for z in _spaced(rng, 6 if lane < 0 else 9, 70, rng.uniform(14, 40)):
            kind = kinds[rng.choice(4, p=odds)]
            yield z, partial(kind, x=lane + rng.uniform(-0.3, 0.3), z=z)
            if kind is kinds[3]:
                break  # longer than the gap
    for kerb in (left, right):
        if rng.random() < 0.6:
            for z in _spaced(rng, 5, 60, rng.uniform(7.5, 25)):
                yield z, partial(_draw_car, x=kerb - np.sign(kerb) * 1.05, z=z)


def _plan_roadside(
    rng: Rng, side: int, kerb: float, walk: float, line: float
) -> Iterator[tuple[float, Thing]]:
    """Trees, posts and people beside the road, as (distance, thing)."""
    post, between = kerb + side * 0.5, partial(rng.uniform, *sorted((kerb + side, walk)))
    for draw, gap, chance in [(_draw_lamp, 20, 0.9), (_draw_sign, 13, 0.9), (_draw_tree, 13, 0.5),
                              (_draw_traffic_light, 22, 0.7)]:
        if rng.random() < chance:
            for z in _spaced(rng, 5, 60, gap):
                yield z, partial(draw, x=post + side * rng.uniform(0, 0.5), z=z)
    if abs(line - walk) > 0.8:
        for z in _spaced(rng, 4, 50, rng.uniform(2, 9)):
            yield z, partial(_draw_bush, x=rng.uniform(*sorted((walk + side * 0.4, line))), z=z)
    for z in _spaced(rng, 5, 40, rng.uniform(2, 12)):
        yield z, partial(_draw_person, x=between(), z=z)
    for label, gap in ((BICYCLE, 20), (MOTORCYCLE, 30)):
        for z in _spaced(rng, 4, 35, gap):
            parked = bool(rng.random() < 0.5)
            x = between() if parked else kerb - side * rng.uniform(0.5, 2.2)
            yield z, partial(_draw_cycle, x=x, z=z, label=label, ridden=not parked)


def _draw_hood(canvas: Canvas, rng: Rng) -> None:
    """The bonnet of the car that carries the camera: void, as in Cityscapes."""
    width, height = (0.62, rng.uniform(0.05, 0.14)) / canvas.focal
    bottom = canvas.eye - (1 - canvas.horizon) / canvas.focal[1]  # of the picture, at z = 1
    hood = _disc(rng.uniform(-0.1, 0.1), bottom, 1, width, height, corners=40)
    canvas.fill(hood, _gray(rng, 20, 110), IGNORE_LABEL)


# The photograph.

# How strongly grain, leaf-sized clumps and broad stains show on each class, and on the rest.
_TEXTURE = {
    ROAD: (0.07, 0.02, 0.06),
    SIDEWALK: (0.03, 0.05, 0.06),
    BUILDING: (0.02, 0.04, 0.08),
    WALL: (0.05, 0.10, 0.08),
    FENCE: (0.04, 0.04, 0.06),
    VEGETATION: (0.12, 0.30, 0.12),
    TERRAIN: (0.16, 0.10, 0.12),
    SKY: (0.0, 0.01, 0.07),
}
_TEXTURE_OF_REST = (0.02, 0.02, 0.04)


def _noise(rng: Rng, cells: int, size: int) -> np.ndarray:
    """Smooth noise with about `cells` bumps across: float32 [size, size]."""
    field = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR)


def _photograph(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Adds texture, light, blur and sensor noise: uint8 [size, size, 3]."""
    size, labels = len(pixels), np.ascontiguousarray(pixels[..., 3])
    strength = np.full((256, 3), _TEXTURE_OF_REST, np.float32)
    strength[list(_TEXTURE)] = list(_TEXTURE.values())
    gain = np.ones((size, size), np.float32)
    for column, cells in enumerate((256, 80, 10)):
        gain += cv2.LUT(labels, strength[:, column]) * _noise(rng, cells, size)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    across, down = rng.uniform(-0.2, 0.2, 2)
    gain *= 1 + np.float32(across) * ramp + np.float32(down) * ramp[:, None]
    light = rng.uniform(0.65, 1.15) * (1 + rng.normal(0, 0.03, 3))
    photo = pixels[..., :3] * gain[..., None] * light.astype(np.float32)
    photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.35, 0.9) * max(size, 128) / 256)
    photo += np.float32(rng.uniform(1, 4)) * rng.standard_normal((size, size, 1), np.float32)
    return photo.clip(0, 255).astype(np.uint8)


def draw_scene(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one street.

    Args:
      rng: Where every choice comes from.
      size: Height and width in pixels.

    Returns:
      The photo, uint8 [size, size, 3] RGB, and its train ids, uint8 [size, size], 255 for void.
    """
    canvas = Canvas(rng, size)
    pixels = _draw_sky(canvas, rng)
    edges = _draw_ground(canvas, rng)
    _draw_far_end(canvas, rng)
    for side, (_, _, line) in edges.items():
        _draw_frontage(canvas, rng, side, line)
        if side == canvas.sun:  # houses stand between the sun and the street
            reach = line - side * rng.uniform(0, 8)
            canvas.shade(_flat(min(reach, line), max(reach, line), _NEAR, _END), 0.6)
    things = list(_plan_vehicles(rng, edges[-1][0], edges[1][0]))
    for side, (kerb, walk, line) in edges.items():
        things += _plan_roadside(rng, side, kerb, walk, line)
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw(canvas, rng)
    if rng.random() < 0.35:
        _draw_hood(canvas, rng)
    canvas.render(pixels)
    return _photograph(pixels, rng), pixels[..., 3].copy()
