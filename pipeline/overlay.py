"""A photo and its classes in one picture."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.palette import Palette

PHOTO_SHARE = 0.45
"""Of the levels; the rest are the classes' colours."""


def overlay(photo: np.ndarray, labels: np.ndarray, palette: Palette) -> np.ndarray:
    """The photo, tinted with its classes' colours.

    Args:
      photo: uint8 [H, W, 3].
      labels: uint8 [H, W], train ids.
      palette: The classes.

    Returns:
      uint8 [H, W, 3].
    """
    return cv2.addWeighted(photo, PHOTO_SHARE, palette.colorize(labels), 1 - PHOTO_SHARE, 0.0)
