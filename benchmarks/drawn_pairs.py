"""Writes many pairs quickly: few scenes are drawn, and each is coded again and again."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.street import draw_scene
from pipeline.synthesize import encode_pair, scene_rng

SCENES = 300


def write_pairs(folder: Path, count: int, size: int) -> None:
    """Writes ``folder/train/1.jpg ...``, no two of them equal.

    The first `SCENES` pairs are drawn. The others are those with the photo a little brighter or
    darker, by another number of levels each time: as heavy to convert, and another content.

    Args:
      folder: A folder that does not exist yet.
      count: Number of pairs.
      size: Height of a pair and width of each half, in pixels.
    """
    scene = functools.cache(lambda index: draw_scene(scene_rng(0, "train", index), size))
    split = folder / "train"
    split.mkdir(parents=True)
    for number in tqdm(range(count), desc=f"drawing {count:,} pairs", disable=None):
        photo, labels = scene(number % SCENES)
        data = encode_pair(brightened(photo, number // SCENES), labels)
        (split / f"{number + 1}.jpg").write_bytes(data)


def brightened(photo: np.ndarray, change: int) -> np.ndarray:
    """Adds 0, 1, -1, 2, -2, ... levels to a photo, uint8 of any shape."""
    levels = (change + 1) // 2 * (1 if change % 2 else -1)
    return np.clip(photo.astype(np.int16) + levels, 0, 255).astype(np.uint8)
