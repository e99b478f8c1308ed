"""Runs a SavedModel over photos and writes what it sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from pipeline import pairs
from pipeline.errors import UserError
from pipeline.overlay import overlay
from pipeline.palette import Palette
from trainer import pictures
from trainer.inference import WHOLE_PHOTO, Inference
from trainer.saved_model import load

Predictor = Callable[[np.ndarray], np.ndarray]


class PredictionError(UserError):
    """Photos or an output folder that cannot be used."""


def load_saved_model(folder: str, inference: Inference = WHOLE_PHOTO) -> tuple[Predictor, Palette]:
    """Loads an exported network.

    Args:
      folder: ``RUN/export/N``.
      inference: How photos are shown to it.

    Returns:
      A function from a photo, uint8 [H, W, 3], to class ids, uint8 [H, W]; and the palette.

    Raises:
      RunError: Where the folder holds no SavedModel of ours.
    """
    scorer, palette = load(folder)

    def predict(photo: np.ndarray) -> np.ndarray:
        pixels = photo[np.newaxis].astype(np.float32)
        return inference.class_ids(scorer, pixels)[0].numpy().astype(np.uint8)

    return predict, palette


def predict_folder(
    saved_model: str,
    source: str,
    output_dir: str,
    pairs_side: str | None = None,
    limit: int | None = None,
    inference: Inference = WHOLE_PHOTO,
) -> tuple[int, list[str]]:
    """Labels every photo of a folder.

    For ``x.jpg`` it writes ``x_ids.png``, 8-bit train ids at the photo's size, and
    ``x_overlay.png``: photo, the classes' colours over it, and a legend.

    Args:
      saved_model: An exported network.
      source: A photo or a folder of photos.
      output_dir: A folder that is new or empty.
      pairs_side: Where the photo is, if the files are pairs: ``left`` or ``right``.
      limit: Only so many photos.
      inference: How photos are shown to the network.

    Returns:
      How many were labelled; and for each that could not be, its name and the reason.

    Raises:
      PredictionError: Where `source` has no photos or `output_dir` is in use.
      RunError: Where `saved_model` is no SavedModel of ours.
    """
    paths = _photos(source)[:limit]
    if os.path.exists(output_dir) and (not os.path.isdir(output_dir) or os.listdir(output_dir)):
        raise PredictionError(
            f"--output_dir {output_dir!r} is not an empty folder: name another one."
        )
    predict, palette = load_saved_model(saved_model, inference)
    os.makedirs(output_dir, exist_ok=True)
    bad = []
    for path in tqdm(paths, unit="photo", desc="predict", disable=not sys.stderr.isatty()):
        try:
            labels, photo = _label(path, pairs_side, inference, predict)
        except (pairs.BadPair, OSError) as error:
            bad.append(f"{os.path.basename(path)}: {error}")
            continue
        name = os.path.join(output_dir, os.path.splitext(os.path.basename(path))[0])
        pictures.write_png(f"{name}_ids.png", labels)
        panels = pictures.strip([photo, overlay(photo, labels, palette)])
        picture = pictures.with_legend(panels, labels, palette)
        pictures.write_png(f"{name}_overlay.png", picture)
    return len(paths) - len(bad), bad


def _photos(source: str) -> list[str]:
    if os.path.isfile(source):
        return [source]
    if not os.path.isdir(source):
        raise PredictionError(f"--input {source!r} is missing: name a photo or a folder of them.")
    paths = [
        os.path.join(source, name) for name in sorted(os.listdir(source))
        if pairs.is_image_name(name)
    ]  # fmt: skip
    if not paths:
        raise PredictionError(
            f"--input {source!r} holds no photos ({', '.join(pairs.IMAGE_SUFFIXES)})."
        )
    by_stem: dict[str, str] = {}
    for path in paths:
        other = by_stem.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            raise PredictionError(
                f"{other!r} and {path!r} would be written to the same files; rename one."
            )
    return paths


def _label(
    path: str, pairs_side: str | None, inference: Inference, predict: Predictor
) -> tuple[np.ndarray, np.ndarray]:
    """The train ids, uint8 [H, W], of a photo, uint8 [H, W, 3]; and the photo.

    Raises:
      BadPair: One of its kinds.
      OSError: Where the file cannot be read.
    """
    photo = _read_photo(path, pairs_side, inference)
    try:
        return predict(photo), photo
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        height, width = photo.shape[:2]
        smaller = "a --window" if inference.window is None else "a smaller --window"
        raise pairs.ImageTooLarge(
            f"{width}x{height} pixels, for which memory ran out; {smaller} needs less"
        ) from error


def _read_photo(path: str, pairs_side: str | None, inference: Inference) -> np.ndarray:
    with open(path, "rb") as file:
        data = file.read(pairs.MAX_FILE_BYTES + 1)
    header = pairs.read_header(data, pairs.PHOTO_MODES if pairs_side is None else pairs.PAIR_MODES)
    width, height = header.size
    scale = max(1.0, *inference.scales)  # of the largest copy that the network sees
    if inference.window is None and width * height * scale**2 > pairs.MAX_PREDICTED_PIXELS:
        scaled = "" if scale == 1 else f" at {scale:g} times their sides"
        raise pairs.ImageTooLarge(
            f"{width}x{height} pixels{scaled}; more than {pairs.MAX_PREDICTED_PIXELS} need --window"
        )
    if pairs_side is None:
        return pairs.decode_pixels(data, header, apply_orientation=True)
    return pairs.split_pair(pairs.decode_pixels(data, header), pairs_side)[0]
