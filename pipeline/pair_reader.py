"""A pair's file -> photo, mask and labels, or the reason why it is none."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline import pairs
from pipeline.labels import (
    READERS,
    ColorMask,
    NearestColor,
    RecoveredLabels,
    UnknownColors,
    open_pair,
)
from pipeline.pairs import BadPair
from pipeline.palette import IGNORE_LABEL, Palette

_SUSPICIOUS_FRACTION = 0.2
"""Masks with more pixels of unknown colour are rare, but a grey photo may have as few as this."""

_BLEEDING_COLUMNS = 16
"""Of the mask, beside the photo: an MCU of a JPEG is at most so wide (4:2:0) and may hold both."""


class SwappedHalves(BadPair):
    """The photo is where the mask should be, and the mask where the photo should be."""


class SingleColor(BadPair):
    """A mask without anything to tell apart."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A good pair.

    Attributes:
      photo: uint8 [H, W, 3], RGB.
      mask: uint8 [H, W, 3], RGB.
      labels: What the mask's colours stand for.
      coding: The file's kind, such as ``JPEG 75 4:2:0`` or ``PNG``.
    """

    photo: np.ndarray
    mask: np.ndarray
    labels: RecoveredLabels
    coding: str


class PairReader:
    """Reads pairs of one palette, with the photo on one side."""

    def __init__(
        self,
        palette: Palette,
        image_side: str,
        label_recovery: str = "robust",
        ignore_ambiguous: bool = False,
    ) -> None:
        """Makes a reader.

        Args:
          palette: The masks' colours.
          image_side: Where the photo is, ``left`` or ``right``.
          label_recovery: How labels are read back, of `labels.READERS`.
          ignore_ambiguous: Give labels that are in doubt the ignore label.
        """
        self._palette = palette
        self._image_side = image_side
        self._read_labels = READERS[label_recovery](palette)
        self._nearest = NearestColor(palette)
        self._ignore_ambiguous = ignore_ambiguous

    def __call__(self, data: bytes) -> Pair:
        """Reads a pair.

        Args:
          data: The file's bytes.

        Raises:
          BadPair: One of its kinds.
        """
        photo, color_mask = open_pair(data, self._image_side)
        try:
            labels = self._read_labels(color_mask)
        except UnknownColors as error:
            if self._unknown_share(photo) < 1:
                raise SwappedHalves(self._swapped()) from error
            raise
        unknown = labels.unknown_fraction
        if unknown > _SUSPICIOUS_FRACTION and self._unknown_share(photo) < unknown:
            raise SwappedHalves(self._swapped())
        self._check_several(labels.train_ids)
        if self._ignore_ambiguous:
            train_ids = np.where(labels.unsure, np.uint8(IGNORE_LABEL), labels.train_ids)
            labels = dataclasses.replace(labels, train_ids=train_ids)
        return Pair(photo, color_mask.pixels, labels, _coding_name(color_mask))

    def _unknown_share(self, half: np.ndarray) -> float:
        """Share of a half's pixels of unknown colour; 1 where it cannot be a mask."""
        try:
            return self._nearest.read_pixels(half).unknown_fraction
        except UnknownColors:
            return 1.0

    def _swapped(self) -> str:
        here, there = self._image_side, *(set(pairs.SIDES) - {self._image_side})
        return (
            f"the {here} half looks like the mask (its colours are those of palette "
            f"{self._palette.name!r}), the {there} half like the photo; swap them, or where all "
            f"pairs are so, give --image_side={there}"
        )

    def _check_several(self, train_ids: np.ndarray) -> None:
        """Refuses a mask of nothing but void, or of one class.

        One stray pixel of another class makes a mask good: a picture full of road is rare but
        possible, a mask painted in a single colour was most likely never finished. With two
        classes, an object and the rest, a picture without the object is an ordinary one.
        """
        inner = train_ids[:, _BLEEDING_COLUMNS:]
        if self._image_side == "right":
            inner = train_ids[:, :-_BLEEDING_COLUMNS]
        if not inner.size:
            inner = train_ids
        train_id = inner[0, 0]
        if (inner != train_id).any():
            return
        if train_id != IGNORE_LABEL and self._palette.num_classes <= 2:
            return
        name = "void" if train_id == IGNORE_LABEL else repr(self._palette.class_names[train_id])
        raise SingleColor(f"the whole mask is {name}; there is nothing to tell apart")


def _coding_name(mask: ColorMask) -> str:
    """The kind of the file that a mask was cut from."""
    if mask.coding:
        return f"JPEG {mask.coding.quality} {mask.coding.subsampling}"
    return "PNG" if mask.file.startswith(b"\x89PNG") else "other JPEG"
