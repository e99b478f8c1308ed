"""Draws a data set of street scenes as photo | mask pairs, for demos and tests.

python -m pipeline.synthesize --output_dir=PAIRS --train=400 --val=80 --size=256 --seed=0
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from absl import flags
from tqdm import tqdm

from pipeline import cli
from pipeline.errors import UserError
from pipeline.palette import CITYSCAPES
from pipeline.street import draw_scene

# These names are common ones: whoever imports this module may define them anew.
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder to write; must not exist or be empty.", allow_override=True
)
_TRAIN = flags.DEFINE_integer("train", 400, "Pairs in train/.", allow_override=True)
_VAL = flags.DEFINE_integer("val", 80, "Pairs in val/.", allow_override=True)
_SIZE = flags.DEFINE_integer(
    "size", 256, "Height of a pair and width of each half, in pixels.", allow_override=True
)
_SEED = flags.DEFINE_integer("seed", 0, "Another seed, other scenes.", allow_override=True)

MIN_SIZE, MAX_SIZE = 64, 1024

_SUBSAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The generator of one picture, which no other picture and no size has a part in."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def encode_pair(
    photo: np.ndarray, labels: np.ndarray, quality: int = 75, subsampling: str = "4:2:0"
) -> bytes:
    """Encodes photo | mask as one JPEG.

    Args:
      photo: uint8 [H, W, 3], RGB.
      labels: uint8 [H, W] of train ids; 255 becomes black.
      quality: libjpeg's quality, 1 to 100.
      subsampling: Resolution of the chroma: 4:4:4, 4:4:0, 4:2:2, 4:2:0 or 4:1:1.

    Raises:
      UserError: Where quality or subsampling is none of these.
    """
    if subsampling not in _SUBSAMPLINGS:
        raise UserError(
            f"Chroma subsampling is one of {', '.join(_SUBSAMPLINGS)}. Received: {subsampling!r}."
        )
    if not 1 <= quality <= 100:
        raise UserError(f"JPEG quality is 1 to 100. Received: {quality}.")
    pair = np.concatenate([photo, CITYSCAPES.colorize(labels)], axis=1)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
    parameters += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SUBSAMPLINGS[subsampling]]
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pair, cv2.COLOR_RGB2BGR), parameters)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a pair of shape {pair.shape}.")
    return jpeg.tobytes()


def write_data_set(output_dir: str, counts: Mapping[str, int], size: int, seed: int) -> None:
    """Writes ``output_dir/SPLIT/1.jpg ...``, whole or not at all.

    Args:
      output_dir: A folder that does not exist yet, or is empty.
      counts: Number of pairs by split.
      size: Height of a pair and width of each half, even, 64 to 1024 pixels.
      seed: Not negative; the same seed gives the same bytes.

    Raises:
      UserError: Where an argument is not of this kind.
    """
    _check(counts, size, seed)
    target = Path(os.path.realpath(output_dir))  # rename would replace a link, not fill its folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"--output_dir {output_dir!r} is not an empty folder: name another, or delete it first."
        )
    staging = target.with_name(f"{target.name}.incomplete")
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir(parents=True)
    try:
        _write_splits(staging, counts, size, seed)
        if target.exists():
            target.rmdir()
        staging.rename(target)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _check(counts: Mapping[str, int], size: int, seed: int) -> None:
    for split, count in counts.items():
        if count < 0:
            raise UserError(f"--{split} is a number of pairs, 0 or more. Received: {count}.")
    if not MIN_SIZE <= size <= MAX_SIZE or size % 2:
        raise UserError(
            f"--size is an even number of pixels, {MIN_SIZE} to {MAX_SIZE}. Received: {size}."
        )
    if seed < 0:
        raise UserError(f"--seed is 0 or more. Received: {seed}.")


def _write_splits(folder: Path, counts: Mapping[str, int], size: int, seed: int) -> None:
    with tqdm(total=sum(counts.values()), unit=" pairs", disable=None) as progress:
        for split, count in counts.items():
            (folder / split).mkdir()
            for index in range(1, count + 1):
                photo, labels = draw_scene(scene_rng(seed, split, index), size)
                (folder / split / f"{index}.jpg").write_bytes(encode_pair(photo, labels))
                progress.update()


def main(_: list[str]) -> None:
    """The command; it takes flags only."""
    output_dir, size = cli.require(_OUTPUT_DIR), _SIZE.value
    counts = {"train": _TRAIN.value, "val": _VAL.value}
    write_data_set(output_dir, counts, size, _SEED.value)
    pairs = " and ".join(f"{count} {split}" for split, count in counts.items())
    print(f"Wrote {pairs} pairs of {2 * size}x{size} pixels to {output_dir}.")


if __name__ == "__main__":
    cli.run(main)
