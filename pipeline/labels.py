"""Colour mask -> train ids, and how far its colours were from the palette's."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from pipeline.pairs import BadPair
from pipeline.palette import Palette

UNKNOWN_DISTANCE = 32
"""Further than this from every colour (Euclidean, RGB levels), a pixel is of unknown colour."""

MAX_UNKNOWN_FRACTION = 0.3


class UnknownColors(BadPair):
    """A mask whose colours are not the palette's."""


@dataclasses.dataclass(frozen=True)
class RecoveredLabels:
    """Labels read back from a colour mask.

    Attributes:
      train_ids: uint8 [H, W].
      unknown_fraction: Share of pixels further than `UNKNOWN_DISTANCE` from every colour.
    """

    train_ids: np.ndarray
    unknown_fraction: float


class NearestColor:
    """Gives each pixel the train id of the palette colour nearest in RGB.

    An exact table over all 2**24 colours: built once (about a second, 32 MiB), then two look-ups
    a pixel; colours that are exactly the palette's, as in PNG masks, come back exactly.
    """

    def __init__(self, palette: Palette) -> None:
        index, self._distance = _nearest_tables(palette.colors.tobytes())
        self._train_id = palette.train_ids[index]
        self._palette_name = palette.name

    def __call__(self, mask: np.ndarray) -> RecoveredLabels:
        """Reads labels back.

        Args:
          mask: uint8 [H, W, 3], RGB.

        Raises:
          UnknownColors: Where over `MAX_UNKNOWN_FRACTION` of the pixels are of unknown colour.
        """
        code = _rgb_code(mask)
        unknown = np.count_nonzero(self._distance[code] > UNKNOWN_DISTANCE) / code.size
        if unknown > MAX_UNKNOWN_FRACTION:
            raise UnknownColors(
                f"{unknown:.0%} of the mask's pixels are far from every colour of palette "
                f"{self._palette_name!r}; is the mask on the other side, or the palette another?"
            )
        return RecoveredLabels(self._train_id[code], unknown)


def _rgb_code(pixels: np.ndarray) -> np.ndarray:
    """Each pixel's colour as one number, red * 65536 + green * 256 + blue: uint32 [H, W]."""
    bgra = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)
    return bgra.view("<u4")[..., 0] & 0xFFFFFF


@functools.lru_cache(maxsize=2)
def _nearest_tables(colors: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Index of and distance to the nearest colour, for every RGB code.

    Args:
      colors: uint8 [N, 3] as bytes.

    Returns:
      Two [2**24], the distances uint8: they are rounded and end at 255.
    """
    palette = np.frombuffer(colors, np.uint8).reshape(-1, 3).astype(np.int32)
    levels = np.arange(256, dtype=np.int32)
    red, green, blue = ((levels[:, None] - palette[:, c]) ** 2 for c in range(3))
    green_blue = (green[:, None] + blue[None, :]).reshape(65536, -1)
    index = np.empty((256, 65536), np.min_scalar_type(len(palette) - 1))
    distance = np.empty((256, 65536), np.uint8)
    for level in range(256):
        squared = green_blue + red[level]
        index[level] = squared.argmin(axis=-1)
        nearest = squared[np.arange(65536), index[level]]
        distance[level] = np.minimum(np.rint(np.sqrt(nearest)), 255)
    return index.reshape(-1), distance.reshape(-1)
