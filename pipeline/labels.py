"""Colour mask -> train ids, where they are in doubt, and how far its colours were off."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Protocol

import cv2
import numpy as np

from pipeline import jpeg, mask_fit, pairs
from pipeline.pairs import BadPair
from pipeline.palette import Palette

UNKNOWN_DISTANCE = 32
"""Further than this from every colour (Euclidean, RGB levels), a pixel is of unknown colour."""

MAX_UNKNOWN_FRACTION = 0.3

SURE_MARGIN = 20.0
"""Energy by which a fitted label must beat the second best to be sure: e^10 times likelier."""

_CUBE = 32
"""Side of the cubes of colours in which `_nearest_rows` searches, in levels."""


class UnknownColors(BadPair):
    """A mask whose colours are not the palette's."""


@dataclasses.dataclass(frozen=True)
class ColorMask:
    """A mask as it came.

    Attributes:
      pixels: uint8 [H, W, 3], RGB.
      file: The bytes of the JPEG or PNG that it was cut from.
      coding: How that was coded, where it is a YCbCr JPEG.
      left: Its first column there.
    """

    pixels: np.ndarray
    file: bytes
    coding: jpeg.Coding | None
    left: int


def open_pair(file: bytes, image_side: str) -> tuple[np.ndarray, ColorMask]:
    """A pair's photo, uint8 [H, W, 3] RGB, and its mask.

    Args:
      file: The pair's bytes.
      image_side: Where the photo is, ``left`` or ``right``.

    Raises:
      BadPair: Where it cannot be decoded or cut in two.
    """
    header = pairs.read_header(file)
    photo, mask = pairs.split_pair(pairs.decode_pixels(file, header), image_side)
    left = mask.shape[1] if image_side == "left" else 0
    return photo, ColorMask(mask, file, jpeg.read_coding(header), left)


@dataclasses.dataclass(frozen=True)
class RecoveredLabels:
    """Labels read back from a colour mask.

    Attributes:
      train_ids: uint8 [H, W].
      unsure: bool [H, W]: where another class is nearly as likely.
      unknown_fraction: Share of pixels further than `UNKNOWN_DISTANCE` from every colour.
    """

    train_ids: np.ndarray
    unsure: np.ndarray
    unknown_fraction: float


class LabelReader(Protocol):
    """Reads labels back from masks in the colours of the palette it was made with."""

    def __init__(self, palette: Palette) -> None: ...

    def __call__(self, mask: ColorMask) -> RecoveredLabels:
        """Reads labels back.

        Raises:
          UnknownColors: Where over `MAX_UNKNOWN_FRACTION` of the pixels are of unknown colour.
        """


class NearestColor:
    """A `LabelReader` that gives each pixel the train id of the colour nearest in RGB.

    An exact table over all 2**24 colours: built once (16 MiB), then one look-up
    a pixel; colours that are exactly the palette's, as in PNG masks, come back exactly.
    """

    def __init__(self, palette: Palette) -> None:
        self._nearest = _NearestTable(
            palette.colors.astype(np.float64), np.ones(3), palette.train_ids
        )
        self._palette = palette

    def __call__(self, mask: ColorMask) -> RecoveredLabels:
        return self.read_pixels(mask.pixels)

    def read_pixels(self, pixels: np.ndarray) -> RecoveredLabels:
        """Reads the labels of uint8 [H, W, 3], RGB, wherever it comes from.

        Raises:
          UnknownColors: Where over `MAX_UNKNOWN_FRACTION` of the pixels are of unknown colour.
        """
        train_ids, unknown = self._nearest(pixels)
        fraction = np.count_nonzero(unknown) / unknown.size
        if fraction > MAX_UNKNOWN_FRACTION:
            raise UnknownColors(
                f"{fraction:.0%} of the mask's pixels are far from every colour of palette "
                f"{self._palette.name!r}; is it painted in another palette's colours?"
            )
        return RecoveredLabels(train_ids, unknown, fraction)


class FittedColors:
    """A `LabelReader` that finds the labels which, coded as the mask was, come nearest to it.

    Masks that are no YCbCr JPEGs are read by `NearestColor`. For the algorithm see
    `pipeline.mask_fit`.
    """

    def __init__(self, palette: Palette) -> None:
        self._colors = jpeg.to_luma_and_chroma(palette.colors)
        rows = np.arange(len(self._colors), dtype=np.min_scalar_type(len(self._colors) - 1))
        self._start = _NearestTable(self._colors, mask_fit.LUMA_FIRST, rows)
        self._nearest = NearestColor(palette)
        self._train_ids = palette.train_ids

    def __call__(self, mask: ColorMask) -> RecoveredLabels:
        nearest = self._nearest(mask)
        if mask.coding is None:
            return nearest
        planes = jpeg.decode_planes(mask.file, mask.coding)
        width = mask.pixels.shape[1]
        start, doubtful = self._start(planes.upsampled()[:, mask.left : mask.left + width])
        index, margin = mask_fit.fit(planes, mask.left, start, doubtful, self._colors)
        return RecoveredLabels(
            self._train_ids[index], margin < SURE_MARGIN, nearest.unknown_fraction
        )


READERS: dict[str, type[LabelReader]] = {"robust": FittedColors, "nearest": NearestColor}
"""Ways to read labels back, by the name of the flag's value."""


class _NearestTable:
    """Looks up what stands for the nearest of some colours, and whether that is far."""

    def __init__(self, colors: np.ndarray, weights: np.ndarray, values: np.ndarray) -> None:
        """Takes colours [N, 3], 0 to 255, weights of squared differences [3] and values [N]."""
        scaled = colors * np.sqrt(weights)
        self._rows = _nearest_rows(scaled.tobytes(), np.sqrt(weights).tobytes())
        self._num_colors = len(colors)
        self._values = np.tile(values, 2)
        if self._rows.dtype == np.uint8:  # as cv2.LUT wants it
            self._values = np.resize(self._values, 256)

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The value of the nearest colour and whether it is far, bool, for uint8 [H, W, 3]."""
        rows = self._rows.take(_code(pixels), mode="clip")  # none is out of range: just quicker
        # cv2.LUT takes a tenth of the time, but knows bytes only.
        look_up = cv2.LUT if rows.dtype == np.uint8 else _take
        return look_up(rows, self._values), rows >= self._num_colors


def _take(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values.take(rows)


def _code(pixels: np.ndarray) -> np.ndarray:
    """Three channels as one number, the first times 65536: uint32 [H, W]."""
    reversed_ = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)
    return reversed_.view("<u4")[..., 0] & 0xFFFFFF


@functools.lru_cache(maxsize=4)
def _nearest_rows(points: bytes, scales: bytes) -> np.ndarray:
    """The row of the nearest point for every code; N more than that where it is far.

    Args:
      points: float64 [N, 3] as bytes, the channels scaled.
      scales: float64 [3] as bytes, the channels' scales.

    Returns:
      Unsigned [2**24]; one number and not two, as looking up takes most of the time of reading.
    """
    targets = np.frombuffer(points).reshape(-1, 3)
    levels = np.arange(256)[:, None] * np.frombuffer(scales)
    squares = ((levels[:, None] - targets) ** 2).astype(np.float32)  # level, target, channel
    rows = np.empty((256, 256, 256), np.min_scalar_type(2 * len(targets) - 1))
    for corner in itertools.product(range(0, 256, _CUBE), repeat=3):
        cube = tuple(slice(start, start + _CUBE) for start in corner)
        first, second, third = (squares[part, :, c].T for c, part in enumerate(cube))
        # Most targets can be nearest nowhere in the cube: another one's farthest is nearer.
        low = second.min(axis=1) + third.min(axis=1) + first.min(axis=1)
        high = second.max(axis=1) + third.max(axis=1) + first.max(axis=1)
        nearest = np.full((_CUBE, _CUBE, _CUBE), np.inf, np.float32)
        row_of_nearest = np.empty(nearest.shape, rows.dtype)
        for row in np.flatnonzero(low <= high.min()):
            squared = second[row][:, None] + third[row] + first[row][:, None, None]
            nearer = squared < nearest
            np.copyto(nearest, squared, where=nearer)
            np.copyto(row_of_nearest, rows.dtype.type(row), where=nearer)
        far = nearest > UNKNOWN_DISTANCE**2
        rows[cube] = row_of_nearest + rows.dtype.type(len(targets)) * far
    return rows.reshape(-1)
