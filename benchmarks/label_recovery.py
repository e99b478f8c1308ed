"""Measures how well labels are read back from JPEG-coded colour masks.

    python -m benchmarks.label_recovery
    python -m benchmarks.label_recovery --pairs=PAIRS/val --labels=LABELS/val [--qualities=50,75]

Three ways are compared: `nearest` takes each pixel's nearest colour of the palette; `k-means` is
the habit where no palette is at hand: as many clusters as the palette has colours are found among
the pixels, and each gets the class of the palette's colour nearest to its middle; `robust` is
`pipeline.preprocess`'s default. Scenes are drawn and coded at a ladder of qualities and
subsamplings, or real pairs are read for which there are exact train ids: as they are, or, where
qualities are given, coded anew from their photos and exact labels.

Accuracy is over all pixels. The mean IoU is over the classes that occur, void left out of the
mean. `kept` is the share of pixels that --ambiguous=ignore keeps, `right` the accuracy of those.
Milliseconds are of CPU, for a mask, decoding of the pair left out for all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks.exact_labels import read_exact
from model import metrics
from pipeline import cli, pairs, synthesize
from pipeline.errors import UserError
from pipeline.labels import READERS, ColorMask, RecoveredLabels, open_pair
from pipeline.palette import CITYSCAPES, IGNORE_LABEL

_SCENES = flags.DEFINE_integer("scenes", 16, "Scenes to draw, of 256x256 pixels.", lower_bound=1)
_QUALITIES = flags.DEFINE_list(
    "qualities", None, "JPEG qualities. Default: 50 to 100, or with --pairs the files as they are."
)
_SUBSAMPLINGS = flags.DEFINE_list("subsamplings", ["4:2:0", "4:4:4"], "Subsamplings of chroma.")
_PAIRS = flags.DEFINE_string("pairs", None, "Folder of real pairs, the photo on the left.")
_LABELS = flags.DEFINE_string(
    "labels", None, "Folder of their exact train ids: greyscale PNGs of the same names."
)

_LADDER = ["50", "60", "75", "85", "95", "100"]
_KMEANS_PIXELS = 100_000

Sample = tuple[bytes, np.ndarray]
"""A pair's file and the exact train ids of its mask, uint8 [H, W]."""


def main(_: list[str]) -> None:
    cv2.setNumThreads(1)
    print(f"{'coding':<12}{'way':<10}{'accuracy':>9}{'mIoU':>8}{'kept':>8}{'right':>9}{'ms':>7}")
    for coding, samples in _codings():
        scores = {name: Score() for name in ("nearest", "k-means", "robust")}
        readers = {name: reader(CITYSCAPES) for name, reader in READERS.items()}
        readers["k-means"] = KMeans(samples)
        for name, score in scores.items():
            for data, truth in tqdm(samples, desc=f"{coding} {name}", leave=False, disable=None):
                score.add(data, truth, readers[name])
            print(f"{coding:<12}{name:<10}{score}", flush=True)
        if _PAIRS.value:
            print(_per_class(scores))


def _codings() -> Iterator[tuple[str, list[Sample]]]:
    """The files to read, for each coding."""
    pairs_dir, labels_dir = _PAIRS.value, _LABELS.value
    if bool(pairs_dir) != bool(labels_dir):
        raise UserError("--pairs and --labels go together: what is read, and what is right.")
    pictures = _real(pairs_dir, labels_dir) if pairs_dir and labels_dir else _drawn(_SCENES.value)
    if pairs_dir and not _QUALITIES.value:
        yield "as they are", [(data, truth) for data, _, truth in pictures]
        return
    for subsampling in _SUBSAMPLINGS.value:
        for quality in _QUALITIES.value or _LADDER:
            if not quality.isdecimal():
                raise UserError(f"--qualities are whole numbers, 1 to 100. Received: {quality!r}.")
            yield (
                f"{quality} {subsampling}",
                [
                    (synthesize.encode_pair(photo, truth, int(quality), subsampling), truth)
                    for _, photo, truth in pictures
                ],
            )


Picture = tuple[bytes, np.ndarray, np.ndarray]
"""A pair's file as it is, its photo and its exact train ids."""


def _drawn(count: int) -> list[Picture]:
    scenes = (
        synthesize.draw_scene(synthesize.scene_rng(0, "val", index), 256) for index in range(count)
    )
    return [(b"", photo, truth) for photo, truth in scenes]


def _real(pairs_dir: str, labels_dir: str) -> list[Picture]:
    found = []
    for path in sorted(Path(pairs_dir).glob("*")):
        if not pairs.is_image_name(path.name):
            continue
        data = path.read_bytes()
        photo, mask = pairs.split_pair(pairs.decode_image(data), "left")
        found.append((data, photo, read_exact(labels_dir, path.name, mask.shape[:2])))
    if not found:
        raise UserError(f"--pairs {pairs_dir!r} holds no pairs.")
    return found


class Score:
    """How well a way of reading labels did so far."""

    def __init__(self) -> None:
        self.confusion = np.zeros((256, 256), np.int64)
        self._kept, self._right = 0, 0
        self._seconds: list[float] = []

    def add(
        self, data: bytes, truth: np.ndarray, reader: Callable[[ColorMask], RecoveredLabels]
    ) -> None:
        _, mask = open_pair(data, "left")
        started = time.process_time()
        read = reader(mask)
        self._seconds.append(time.process_time() - started)
        index = truth.astype(np.int64) * 256 + read.train_ids
        self.confusion += np.bincount(index.ravel(), minlength=65536).reshape(256, 256)
        self._kept += int(np.count_nonzero(~read.unsure))
        self._right += int(np.count_nonzero((read.train_ids == truth) & ~read.unsure))

    @property
    def iou(self) -> np.ndarray:
        """Of each class: float [256], NaN where it is not in the truth."""
        present = self.confusion.sum(axis=1) > 0
        present[IGNORE_LABEL] = False
        return np.where(present, metrics.iou_per_class(self.confusion), np.nan)

    def __str__(self) -> str:
        accuracy, kept = metrics.pixel_accuracy(self.confusion), self._kept / self.confusion.sum()
        return (
            f"{accuracy:>9.2%}{np.nanmean(self.iou):>8.3f}{kept:>8.2%}"
            f"{self._right / self._kept:>9.3%}{1000 * statistics.median(self._seconds):>7.1f}"
        )


class KMeans:
    """Reads labels by clusters of colours; the palette only names them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        halves = (pairs.split_pair(pairs.decode_image(data), "left")[1] for data, _ in samples)
        pixels = np.concatenate([half.reshape(-1, 3) for half in halves])
        chosen = np.random.default_rng(0).choice(pixels, _KMEANS_PIXELS).astype(np.float32)
        cv2.setRNGSeed(0)
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.1)
        count = len(CITYSCAPES.colors)
        labels = np.zeros((len(chosen), 1), np.int32)
        _, _, centers = cv2.kmeans(chosen, count, labels, stop, 3, cv2.KMEANS_PP_CENTERS)
        self._centers = np.asarray(centers)
        distance = ((self._centers[:, None] - CITYSCAPES.colors.astype(float)) ** 2).sum(axis=-1)
        self._train_ids = CITYSCAPES.train_ids[distance.argmin(axis=1)]

    def __call__(self, mask: ColorMask) -> RecoveredLabels:
        pixels = mask.pixels.reshape(-1, 3).astype(np.float32)
        # The square of a pixel is common to all its distances.
        distance = (self._centers**2).sum(axis=1) - 2 * pixels @ self._centers.T
        train_ids = self._train_ids[distance.argmin(axis=1)].reshape(mask.pixels.shape[:2])
        return RecoveredLabels(train_ids, np.zeros(train_ids.shape, bool), 0.0)


def _per_class(scores: dict[str, Score]) -> str:
    present = np.flatnonzero(~np.isnan(scores["robust"].iou))
    rows = [f"  {'IoU of':<20}" + "".join(f"{name:>9}" for name in scores)]
    for index in present:
        cells = "".join(f"{score.iou[index]:>9.3f}" for score in scores.values())
        rows.append(f"  {CITYSCAPES.class_names[index]:<20}{cells}")
    return "\n".join(rows)


if __name__ == "__main__":
    cli.run(main)
