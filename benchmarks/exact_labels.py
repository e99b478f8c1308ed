"""Exact train ids from before the JPEG: greyscale PNGs named as the pairs are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import UserError


def read_exact(folder: str, pair: str, shape: tuple[int, ...]) -> np.ndarray:
    """The exact labels of a pair.

    Args:
      folder: Holds the PNGs.
      pair: The pair's file name.
      shape: What the labels must fit, (H, W).

    Returns:
      Train ids, uint8 [H, W].

    Raises:
      UserError: Where there are none, or they are of another shape.
    """
    path = Path(folder) / f"{Path(pair).stem}.png"
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if labels is None:
        raise UserError(f"There are no exact labels for {pair}: {path} cannot be read.")
    if labels.shape != shape:
        raise UserError(f"{path} is of shape {labels.shape}; the mask of {pair} is of {shape}.")
    return labels
