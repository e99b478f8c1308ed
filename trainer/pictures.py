"""Pictures of data and results, as arrays for TensorBoard and PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.palette import IGNORE_LABEL, Palette
from pipeline.records import encode_image
from pipeline.strips import FAR_COLOR, faded

WRONG_COLOR = FAR_COLOR


def strip(panels: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures side by side with white gaps: uint8 [H, W_i, 3] each -> uint8 [H, W, 3]."""
    separator = np.full((panels[0].shape[0], gap, 3), 255, np.uint8)
    parts: list[np.ndarray] = []
    for panel in panels:
        parts += [panel, separator]
    return np.concatenate(parts[:-1], axis=1)


def with_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture with a line of text above it: uint8 [H, W, 3] -> uint8 [H + 16, W, 3]."""
    line = np.full((16, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(line, text, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([line, picture])


def mistakes(photo: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The photo in pale grey, with each wrong pixel in `WRONG_COLOR`, void ones left out.

    Args:
      photo: uint8 [H, W, 3].
      truth: uint8 [H, W], train ids.
      prediction: uint8 [H, W], train ids.

    Returns:
      uint8 [H, W, 3].
    """
    picture = np.rint(faded(photo)).astype(np.uint8)
    picture[(prediction != truth) & (truth != IGNORE_LABEL)] = WRONG_COLOR
    return picture


def with_legend(picture: np.ndarray, labels: np.ndarray, palette: Palette) -> np.ndarray:
    """A picture with the names and colours of the classes in it at its right.

    Args:
      picture: uint8 [H, W, 3].
      labels: uint8, train ids of any shape; classes with 0.05 % of them or more are
        listed by their share.
      palette: The classes.

    Returns:
      uint8 [H', W', 3], at least as tall as the legend.
    """
    counts = np.bincount(labels.reshape(-1), minlength=256)[: palette.num_classes]
    present = [
        int(train_id)
        for train_id in np.argsort(-counts)
        if counts[train_id] >= 0.0005 * labels.size
    ]
    row, width = 18, 170
    height = max(picture.shape[0], row * len(present) + 8)
    legend = np.full((height, width, 3), 255, np.uint8)
    for place, train_id in enumerate(present):
        top = 4 + place * row
        color = [int(level) for level in palette.class_colors[train_id]]
        cv2.rectangle(legend, (8, top + 3), (22, top + 15), color, cv2.FILLED)
        text = f"{palette.class_names[train_id]} {counts[train_id] / labels.size:.1%}"
        cv2.putText(
            legend, text, (28, top + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA
        )
    below = height - picture.shape[0]
    return np.concatenate(
        [np.pad(picture, ((0, below), (0, 0), (0, 0)), constant_values=255), legend], axis=1
    )


def confusion_picture(matrix: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """A confusion matrix as shares of each true class.

    Args:
      matrix: int64 [K, K], rows truth, columns prediction.
      class_names: By train id.

    Returns:
      uint8 [H, W, 3].
    """
    # Imported here, as it takes half a second and few commands draw this.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.36 * len(class_names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(class_names)), class_names, rotation=90)
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    for truth, prediction in np.argwhere(shares >= 0.005):
        share = shares[truth, prediction]
        axes.text(
            prediction, truth, f"{share:.0%}", ha="center", va="center", fontsize=6,
            color="white" if share > 0.5 else "black",
        )  # fmt: skip
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_png(path: str, pixels: np.ndarray) -> None:
    """Writes a picture that appears whole or not at all.

    Args:
      path: Of the file.
      pixels: uint8 [H, W, 3] RGB, or [H, W].

    Raises:
      OSError: Where it cannot be written.
    """
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    with open(path + ".tmp", "wb") as file:
        file.write(encode_image(".png", pixels))
    os.replace(path + ".tmp", path)
