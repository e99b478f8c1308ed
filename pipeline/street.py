"""Draws one street scene: a photo and its exact labels.

The world is measured in metres (x to the right, y up, z away from the camera, y = 0 is the
ground) and projected through one camera, so perspective and scale come by themselves. A scene
depends on the generator alone, not on the size in pixels.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.palette import IGNORE_LABEL

# fmt: off
(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN,
 SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(19)
# fmt: on

_NEAR = 0.8  # Metres; what lies nearer is pulled out to here, below the picture's edge.
_END = 90.0  # Metres to the end of the street.
_SUBPIXEL_BITS = 4

Rng = np.random.Generator
Span = tuple[float, float]
Thing = tuple[float, Callable[["Canvas", Rng], None]]
"""Its distance in metres and what draws it."""


class Side(NamedTuple):
    """One side of the street: where things are across it, in metres to the right of the camera.

    `sign` is -1 on the left and 1 on the right; `lane` is the middle of the traffic lane; then
    outwards the `kerb`, where the sidewalk begins (`verge`) and ends (`walk`), and the building
    `line`.
    """

    sign: int
    lane: float
    kerb: float
    verge: float
    walk: float
    line: float
    bays: bool


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


def _bar(start: Span, end: Span, z: float, width: float) -> np.ndarray:
    """A straight stroke from one point (x, y) to another, facing the camera."""
    (x0, y0), (x1, y1) = start, end
    scale = 0.5 * width / math.hypot(x1 - x0, y1 - y0)
    u, v = (y0 - y1) * scale, (x1 - x0) * scale
    corners = (x0 + u, y0 + v, z), (x1 + u, y1 + v, z), (x1 - u, y1 - v, z), (x0 - u, y0 - v, z)
    return np.array(corners)


def _blob(rng: Rng, x: float, y: float, z: float, rx: float, ry: float) -> np.ndarray:
    """A disc with a ragged edge."""
    ragged = _circle(24) * rng.uniform(0.78, 1.22, (24, 1))
    return ragged * (rx, ry, 0) + (x, y, z)


def _scaled(polygon: np.ndarray, *factors: float) -> np.ndarray:
    """A polygon [V, 3] shrunk about its middle, by one factor or by one for each direction."""
    middle = polygon.mean(0)
    return middle + (polygon - middle) * factors


def _box(canvas: Canvas, x: Span, y: Span, z: Span, color: np.ndarray, label: int) -> None:
    """The visible faces of an upright box, each lit in its own way."""
    if y[1] < canvas.eye:
        canvas.fill(_flat(*x, *z, y=y[1]), color * 1.2, label)
    if x[0] > 0 or x[1] < 0:
        near = x[0] if x[0] > 0 else x[1]
        canvas.fill(_side(near, *y, *z), color * (1.05 if near * canvas.sun < 0 else 0.7), label)
    canvas.fill(_front(*x, *y, z=z[0]), color * 0.9, label)


def _gray(rng: Rng, low: float, high: float, tint: float = 6) -> np.ndarray:
    return rng.uniform(low, high) + rng.normal(0, tint, 3)


def _gray_level(level: float) -> np.ndarray:
    return np.full(3, float(level))


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


def _draw_ground(canvas: Canvas, rng: Rng) -> list[Side]:
    """Road, sidewalks and grass: what everything else is placed by."""
    canvas.fill(_flat(-400, 400, _NEAR, 4 * _END), _green(rng), TERRAIN)
    middle, width, paving = rng.uniform(-2.2, -0.6), rng.uniform(2.9, 3.5), _gray(rng, 95, 175)
    sides = []
    for sign in (-1, 1):
        bays = bool(rng.random() < 0.5)
        kerb = middle + sign * (width + (2.2 if bays else 0.3))
        verge = kerb + sign * max(0.0, rng.uniform(-2.5, 2.5))
        walk = verge + sign * rng.uniform(2, 5)
        line = walk + sign * max(0.0, rng.uniform(-3, 5))
        canvas.fill(_flat(kerb, line, _NEAR, _END), _green(rng), TERRAIN)
        canvas.fill(_flat(verge, walk, _NEAR, _END), paving, SIDEWALK)
        joints = [_flat(verge, walk, z, z + 0.06) for z in np.arange(1.5, 22, 1.2)]
        canvas.fill(np.stack(joints), paving * 0.8, SIDEWALK)
        canvas.fill(_flat(kerb, kerb + sign * 0.25, _NEAR, _END), paving * 1.15, SIDEWALK)
        sides.append(Side(sign, middle + sign * width / 2, kerb, verge, walk, line, bays))
    _draw_road(canvas, rng, sides[0], sides[1])
    return sides


def _draw_road(canvas: Canvas, rng: Rng, left: Side, right: Side) -> None:
    asphalt, white = _gray(rng, 75, 140, tint=4), _gray(rng, 190, 230, tint=4)
    canvas.fill(_flat(left.kerb, right.kerb, _NEAR, _END), asphalt, ROAD)
    for z in _spaced(rng, 2, 30, 9):  # mended places
        x = rng.uniform(left.kerb, right.kerb - 2)
        patch = _flat(x, x + 2, z, z + rng.uniform(1, 5))
        canvas.fill(patch, asphalt * rng.uniform(0.75, 1.2), ROAD)
    if rng.random() < 0.3:  # zebra crossing
        z = rng.uniform(6, 16)
        bars = [_flat(x, x + 0.5, z, z + 3) for x in np.arange(left.kerb + 0.3, right.kerb - 0.5)]
        canvas.fill(np.stack(bars), white, ROAD)
    if rng.random() < 0.8:
        middle, dash = (left.lane + right.lane) / 2, rng.uniform(2, 4)
        dashes = np.arange(rng.uniform(1, 5), 60, 2.2 * dash)
        marks = [_flat(middle - 0.08, middle + 0.08, z, z + dash) for z in dashes]
        canvas.fill(np.stack(marks), white, ROAD)
    if rng.random() < 0.5:
        for side in (left, right):
            x = side.lane + side.sign * 1.5
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
    for z0, z1 in reversed(list(itertools.pairwise(ends))):
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
    trunk = _bar((x, 0), (x, height * 0.7), z, height * 0.05)
    canvas.fill(trunk, _gray(rng, 40, 90, 8), VEGETATION)
    canvas.fill(_blob(rng, x, height * 0.7, z, radius, height * 0.32), leaves, VEGETATION)
    for gain in (0.7, 1.25, 0.8, 1.35):
        dx, dy = rng.uniform(-0.5, 0.5, 2) * radius
        clump = _blob(rng, x + dx, height * 0.7 + dy, z, radius * 0.45, radius * 0.4)
        canvas.fill(clump, leaves * gain, VEGETATION)


def _draw_bush(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    r, leaves = rng.uniform(0.5, 1.3), _green(rng)
    canvas.fill(_blob(rng, x, r * 0.4, z, r * 0.9, r * 0.6), leaves, VEGETATION)
    canvas.fill(_blob(rng, x, r * 0.6, z, r * 0.5, r * 0.3), leaves * 1.3, VEGETATION)


def _draw_pole(canvas: Canvas, rng: Rng, x: float, z: float, height: float, arm: float = 0) -> None:
    metal = _gray(rng, 60, 150)
    canvas.fill(_bar((x, 0), (x, height), z, 0.16), metal, POLE)
    if arm:
        canvas.fill(_bar((x, height), (x + arm, height + 0.3), z, 0.12), metal, POLE)


def _draw_lamp(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    _draw_pole(canvas, rng, x, z, rng.uniform(5, 8), arm=-np.sign(x) * rng.uniform(0.8, 2))


_RED, _BLUE, _YELLOW, _WHITE = np.array(
    [(180, 30, 40), (30, 68, 150), (215, 175, 40), (215, 215, 210)], float
)
_SIGNS = [  # corners, rim, inside
    (12, _RED, _WHITE),  # prohibition
    (12, _BLUE, _BLUE),  # direction
    (3, _RED, _WHITE),  # warning
    (8, _RED, _RED),  # stop
    (4, _WHITE, _BLUE),  # information
    (4, _WHITE, _YELLOW),  # town
]


def _draw_sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    y, r, wear = rng.uniform(2.4, 3.2), rng.uniform(0.35, 0.55), rng.uniform(0.75, 1.1)
    _draw_pole(canvas, rng, x, z, y)
    corners, rim, inside = _SIGNS[rng.integers(len(_SIGNS))]
    plate = _disc(x, y, z, r, r, corners)
    if corners == 3:
        plate = np.array([(x - r, y - r / 2, z), (x + r, y - r / 2, z), (x, y + r, z)])
    canvas.fill(plate, rim * wear, TRAFFIC_SIGN)
    canvas.fill(_scaled(plate, 0.65), inside * wear, TRAFFIC_SIGN)
    if corners > 4:
        stroke = _front(x - r / 2, x + r / 2, y - 0.06, y + 0.06, z)
        canvas.fill(stroke, _WHITE * wear, TRAFFIC_SIGN)


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
    canvas: Canvas, rng: Rng, label: int, hip: Span, neck: Span, feet: list[Span], z: float
) -> None:
    """A person by hip, neck and feet (x, y), sitting or standing."""
    trousers, coat, hair = _paint(rng) * 0.7, _paint(rng), _gray(rng, 20, 120, 10)
    skin = np.array([205, 165, 140]) * rng.uniform(0.4, 1.1)
    x, y = neck
    for foot in feet:
        canvas.fill(_bar(hip, foot, z, 0.2), trousers, label)
    canvas.fill(_bar(hip, neck, z, 0.46), coat, label)
    hand = (x + rng.uniform(-0.4, 0.4), (hip[1] + y) / 2 - 0.15)
    canvas.fill(_bar((x, y - 0.1), hand, z, 0.14), coat * 0.8, label)
    canvas.fill(_disc(x, y + 0.15, z, 0.13, 0.17), skin, label)
    canvas.fill(_front(x - 0.12, x + 0.12, y + 0.2, y + 0.33, z), hair, label)


def _draw_person(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    canvas.shade(_flat(x - 0.4, x + 0.4, z - 0.1, z + 0.3), 0.7)
    height, stride = rng.uniform(1.3, 1.95), rng.uniform(0, 0.35)
    feet = [(x - stride, 0.0), (x + stride, 0.0)]
    _draw_body(canvas, rng, PERSON, (x, height * 0.48), (x, height - 0.33), feet, z)


def _draw_cycle(canvas: Canvas, rng: Rng, x: float, z: float, label: int, ridden: bool) -> None:
    """A bicycle or motorcycle with or without its rider, seen from any angle."""
    canvas.shade(_flat(x - 0.8, x + 0.8, z - 0.1, z + 0.3), 0.7)
    turn = rng.choice([-1, 1]) * rng.uniform(0.25, 1)  # how much of its length shows
    color, width, hub = _paint(rng), 0.12, 0.75
    if label == MOTORCYCLE:
        width, hub = 0.4, 0.4

    def at(along: float, y: float) -> Span:
        return x + along * turn, y

    for along in (-0.55, 0.55):
        wheel = _disc(*at(along, 0.35), z, max(0.35 * abs(turn), 0.12), 0.35)
        canvas.fill(wheel, _gray(rng, 25, 50), label)
        canvas.fill(_scaled(wheel, hub), _gray(rng, 70, 130), label)
    canvas.fill(_bar(at(-0.5, 0.55), at(0.3, 0.6), z, width), color, label)
    canvas.fill(_bar(at(0.55, 0.35), at(0.35, 1.05), z, width * 0.7), color, label)
    canvas.fill(_bar(at(-0.25, 0.3), at(-0.2, 0.95), z, width), color * 0.8, label)
    if ridden:
        feet = [at(0.15, 0.3), at(-0.05, 0.15)]
        _draw_body(canvas, rng, RIDER, at(-0.2, 0.95), at(0.1, 1.5), feet, z)


def _draw_wheels(
    canvas: Canvas, label: int, x: float, half: float, z0: float, z1: float, r: float
) -> None:
    rubber, near = _gray_level(28), x - math.copysign(half, x)
    for edge in (x - half, x + half - 0.3):
        canvas.fill(_front(edge, edge + 0.3, 0, r, z0), rubber, label)
    for hub in (z0 + 0.8, z1 - 0.9):
        if abs(x) > half:  # else the flank is hidden behind the rear
            wheel = _disc(0, r, 0, r, r)[:, [2, 1, 0]] + (near, 0, hub)
            canvas.fill(wheel, rubber, label)
            canvas.fill(_scaled(wheel, 0.5), rubber + 80, label)


def _draw_ends(canvas: Canvas, label: int, x: float, half: float, y: float, z: float) -> None:
    """Number plate and lamps: red, or white on what comes towards us in the left lane."""
    lamp = np.array([190, 30, 30]) if x > -1.2 else np.array([250, 250, 225])
    for edge in (x - half + 0.05, x + half - 0.4):
        canvas.fill(_front(edge, edge + 0.35, y, y + 0.2, z), lamp, label)
    canvas.fill(_front(x - 0.26, x + 0.26, y - 0.2, y - 0.05, z), _gray_level(215), label)


def _draw_car(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    color, glass = _paint(rng), _gray(rng, 25, 90)
    half, length, roof = rng.uniform(0.82, 0.95), rng.uniform(3.6, 4.8), rng.uniform(1.4, 1.85)
    canvas.shade(_flat(x - half - 0.2, x + half + 0.2, z - 0.3, z + length), 0.45)
    _box(canvas, (x - half, x + half), (0.28, 0.88), (z, z + length), color, CAR)
    _draw_wheels(canvas, CAR, x, half, z, z + length, 0.32)
    inner, z0, z1 = half * 0.84, z + rng.uniform(0, 0.6), z + length * 0.72
    if abs(x) > half:
        low, high = x - math.copysign(half, x), x - math.copysign(inner, x)
        foot, top = [(low, 0.86, z0), (low, 0.86, z1 + 0.5)], [(high, roof, z1 - 0.3)]
        flank = np.array([*foot, *top, (high, roof, z0 + 0.3)])
        canvas.fill(flank, color * 0.8, CAR)
        canvas.fill(_scaled(flank, 1, 0.65, 0.85), glass, CAR)
    back = _front(x - half, x + half, 0.86, roof, z0)
    back[2:] = (x + inner, roof, z0 + 0.3), (x - inner, roof, z0 + 0.3)
    canvas.fill(back, color, CAR)
    canvas.fill(_scaled(back, 0.85, 0.62, 1), glass * 1.1, CAR)
    _draw_ends(canvas, CAR, x, half, 0.6, z)


def _draw_truck(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    cargo, end, height = _paint(rng), z + rng.uniform(6, 9), rng.uniform(2.8, 3.6)
    canvas.shade(_flat(x - 1.5, x + 1.5, z - 0.4, end), 0.45)
    _box(canvas, (x - 1.1, x + 1.1), (0.5, 2.4), (end - 2, end), _paint(rng), TRUCK)
    _box(canvas, (x - 1.2, x + 1.2), (0.9, height), (z, end - 2.2), cargo, TRUCK)
    canvas.fill(_front(x - 1.15, x + 1.15, 0.5, 0.9, z), _gray_level(45), TRUCK)
    canvas.fill(_front(x - 0.03, x + 0.03, 1, height - 0.1, z), cargo * 0.5, TRUCK)  # two doors
    _draw_wheels(canvas, TRUCK, x, 1.15, z, end, 0.5)
    _draw_ends(canvas, TRUCK, x, 1.15, 0.6, z)


def _draw_coach(canvas: Canvas, rng: Rng, x: float, z: float, label: int) -> None:
    """A bus, or, longer and on rails, a tram (Cityscapes: train)."""
    color, glass, half = rng.uniform(60, 230, 3), _gray(rng, 25, 80), 1.25
    end, height = (z + rng.uniform(9, 12), 3.0) if label == BUS else (z + rng.uniform(18, 26), 3.4)
    canvas.shade(_flat(x - 1.6, x + 1.6, z - 0.4, end), 0.45)
    _box(canvas, (x - half, x + half), (0.3, height), (z, end), color, label)
    canvas.fill(_front(x - 1.1, x + 1.1, 1.3, 2.5, z), glass, label)
    if abs(x) > half:
        near = x - math.copysign(half, x)
        panes = [_side(near, 1.3, 2.4, z0, z0 + 1.3) for z0 in np.arange(z + 0.3, end - 1, 1.6)]
        canvas.fill(np.stack(panes), glass, label)
    if label == BUS:
        canvas.fill(_front(x - 0.7, x + 0.7, 2.6, 2.9, z), np.array([230, 150, 40]), label)
        _draw_wheels(canvas, label, x, half, z, end, 0.48)
    else:
        _box(canvas, (x - half, x + half), (0.1, 0.8), (z, end), color * 0.5, label)
    _draw_ends(canvas, label, x, half, 0.9, z)


_draw_bus, _draw_tram = partial(_draw_coach, label=BUS), partial(_draw_coach, label=TRAIN)


def _plan_traffic(rng: Rng, side: Side) -> Iterator[Thing]:
    """What drives in the lane, and cars and cycles along the kerb."""
    kinds: list[Callable[..., None]] = [_draw_car, _draw_truck, _draw_bus, _draw_tram]
    x = side.lane + rng.uniform(-0.3, 0.3)
    for z in _spaced(rng, 5, 70, rng.uniform(18, 32)):
        kind = kinds[rng.choice(4, p=[0.53, 0.2, 0.19, 0.08])]
        yield z, partial(kind, x=x, z=z)
        if kind is _draw_tram:
            break  # it is longer than the gaps
    if side.bays:
        for z in _spaced(rng, 5, 60, rng.uniform(7.5, 16)):
            yield z, partial(_draw_car, x=side.kerb - side.sign * 1.05, z=z)
    for label, gap in ((BICYCLE, 20), (MOTORCYCLE, 30)):
        for z in _spaced(rng, 4, 35, gap):
            ridden = bool(rng.random() < 0.5)
            x = side.kerb + side.sign * (rng.uniform(-2, -0.5) if ridden else 1)
            yield z, partial(_draw_cycle, x=x, z=z, label=label, ridden=ridden)


def _plan_roadside(rng: Rng, side: Side) -> Iterator[Thing]:
    """Trees, posts and people beside the road."""
    posts: list[tuple[Callable[..., None], float, float]] = [
        (_draw_lamp, 20, 0.9),
        (_draw_sign, 13, 0.9),
        (_draw_tree, 13, 0.5),
        (_draw_traffic_light, 22, 0.7),
    ]
    for draw, gap, chance in posts:
        if rng.random() < chance:
            for z in _spaced(rng, 5, 60, gap):
                yield z, partial(draw, x=side.kerb + side.sign * rng.uniform(0.5, 1), z=z)
    if side.line != side.walk:
        for z in _spaced(rng, 4, 50, rng.uniform(2, 9)):
            x = side.walk + (side.line - side.walk) * rng.random()
            yield z, partial(_draw_bush, x=x, z=z)
    for z in _spaced(rng, 5, 40, rng.uniform(2, 12)):
        x = side.verge + (side.walk - side.verge) * rng.uniform(0.1, 0.9)
        yield z, partial(_draw_person, x=x, z=z)


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
    soft = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.35, 0.9) * max(size, 128) / 256)
    noise = np.float32(rng.uniform(1, 4)) * rng.standard_normal((size, size, 1), np.float32)
    return (soft + noise).clip(0, 255).astype(np.uint8)


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
    sides = _draw_ground(canvas, rng)
    _draw_far_end(canvas, rng)
    things: list[Thing] = []
    for side in sides:
        _draw_frontage(canvas, rng, side.sign, side.line)
        if side.sign == canvas.sun:  # houses stand between the sun and the street
            reach = side.line - side.sign * rng.uniform(0, 8)
            canvas.shade(_flat(reach, side.line, _NEAR, _END), 0.6)
        things += [*_plan_traffic(rng, side), *_plan_roadside(rng, side)]
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw(canvas, rng)
    if rng.random() < 0.35:
        _draw_hood(canvas, rng)
    canvas.render(pixels)
    return _photograph(pixels, rng), pixels[..., 3].copy()
