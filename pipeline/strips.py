"""Pictures of single pairs for the report: photo, mask, classes read back, and the doubt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.dataset_info import NUM_SAMPLES, Recovery, ShardSummary, worst_recoveries
from pipeline.labels import UNKNOWN_DISTANCE
from pipeline.pair_reader import Pair
from pipeline.palette import Palette
from pipeline.records import encode_image

_MAX_HEIGHT, _MAX_WIDTH = 256, 512

FAR_COLOR = (230, 97, 0)
UNSURE_COLOR = (30, 80, 220)
"""Orange and blue, which people who see few colours can tell apart, too."""


@dataclasses.dataclass(frozen=True)
class Strip:
    """A pair as four pictures of one size.

    Attributes:
      split: Its split.
      key: Its file name.
      coding: The file's kind, such as ``JPEG 75 4:2:0``.
      size: Of the photo, ``WIDTHxHEIGHT``; the pictures may be smaller.
      unsure: Share of pixels where another class is nearly as likely.
      unknown: Share of pixels whose colour is far from every class's.
      class_shares: Share of each class in all pixels, [K].
      photo: JPEG.
      mask: JPEG.
      recovered: The classes read back, each in its colour; PNG.
      doubt: The photo in pale grey, with `FAR_COLOR` the stronger the further the mask's colour is
        from those of the class read back, and `UNSURE_COLOR` where that class is unsure; JPEG.
    """

    split: str
    key: str
    coding: str
    size: str
    unsure: float
    unknown: float
    class_shares: list[float]
    photo: bytes
    mask: bytes
    recovered: bytes
    doubt: bytes


def choose(summaries: Sequence[ShardSummary]) -> tuple[list[tuple[str, str]], list[Recovery]]:
    """Which pairs to show: a few of each split as they come, and the worst recoveries of all.

    Records lie in random order, so that the first ones are a fair sample.

    Returns:
      Split and key of each ordinary pair; the worst recoveries, the very worst first.
    """
    by_split: dict[str, list[str]] = {}
    for summary in sorted(summaries, key=lambda s: (s.split, s.index)):
        by_split.setdefault(summary.split, []).extend(summary.samples)
    each = max(1, NUM_SAMPLES // len(by_split))
    samples = [(split, key) for split, keys in by_split.items() for key in keys[:each]]
    worst = worst_recoveries(recovery for summary in summaries for recovery in summary.worst)
    return samples[:NUM_SAMPLES], worst


def make_strip(split: str, key: str, pair: Pair, palette: Palette) -> Strip:
    """Draws a pair's strip."""
    labels = pair.labels
    height, width = labels.train_ids.shape
    counts = np.bincount(labels.train_ids.reshape(-1), minlength=256)[: palette.num_classes]
    photo = shrink(pair.photo, cv2.INTER_AREA)
    mask, train_ids, unsure = (
        shrink(pixels, cv2.INTER_NEAREST)
        for pixels in (pair.mask, labels.train_ids, labels.unsure.astype(np.uint8))
    )
    doubt = _draw_doubt(photo, _color_distance(mask, train_ids, palette), unsure > 0)
    return Strip(
        split=split,
        key=key,
        coding=pair.coding,
        size=f"{width}x{height}",
        unsure=np.count_nonzero(labels.unsure) / labels.unsure.size,
        unknown=labels.unknown_fraction,
        class_shares=(counts / labels.train_ids.size).tolist(),
        photo=encode_rgb(".jpg", photo),
        mask=encode_rgb(".jpg", mask),
        recovered=encode_rgb(".png", palette.colorize(train_ids)),
        doubt=encode_rgb(".jpg", doubt),
    )


def shrink(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    """A picture that is as large as a strip's may be, or smaller: uint8 [H, W(, 3)]."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _MAX_HEIGHT / height, _MAX_WIDTH / width)
    if scale == 1.0:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=interpolation)


def _color_distance(mask: np.ndarray, train_ids: np.ndarray, palette: Palette) -> np.ndarray:
    """How far each pixel's colour is from the nearest of its class's colours.

    Args:
      mask: uint8 [H, W, 3].
      train_ids: uint8 [H, W].
      palette: Where void may have several colours, and so may a class.

    Returns:
      float32 [H, W], RGB levels.
    """
    distance = np.full(train_ids.shape, np.inf, np.float32)
    for color, train_id in zip(palette.colors, palette.train_ids, strict=True):
        at = train_ids == train_id
        to_color = np.linalg.norm(mask[at].astype(np.float32) - color, axis=-1)
        distance[at] = np.minimum(distance[at], to_color)
    return distance


def faded(photo: np.ndarray) -> np.ndarray:
    """A photo in pale grey, for something to be marked in: uint8 [H, W, 3] -> float64 [H, W, 3]."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
    return 160 + 0.35 * np.repeat(grey, 3, axis=-1)


def _draw_doubt(photo: np.ndarray, distance: np.ndarray, unsure: np.ndarray) -> np.ndarray:
    picture = faded(photo)
    # A distance that counts as unknown is well seen, JPEG's usual unrest is not.
    strength = np.clip(distance / UNKNOWN_DISTANCE - 0.25, 0, 1)[..., None]
    picture += (np.array(FAR_COLOR) - picture) * strength
    picture[unsure] = UNSURE_COLOR
    return np.rint(picture).astype(np.uint8)


def encode_rgb(suffix: str, pixels: np.ndarray) -> bytes:
    """A ``.jpg`` or ``.png`` to look at, of a picture, uint8 [H, W, 3]."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        88,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return encode_image(suffix, bgr, options if suffix == ".jpg" else ())
