"""LiteRT files of exported networks: one file, photos of any size, pixels in, scores out.

The file is also a ZIP archive, as LiteRT's files with metadata are: it carries the SavedModel's
assets (classes, colours, configuration), ``labels.txt`` with the classes' names, one a line, and
``litert.json``, which says what goes in and comes out. ``unzip -l FILE.tflite`` lists them.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python.convert_phase import ConverterError
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from model import metrics
from model.confusion import confusion_matrix
from pipeline import street
from pipeline.errors import UserError
from pipeline.input_fn import RecordReader
from pipeline.palette import PALETTE_FILE, Palette
from pipeline.records import parse_record
from pipeline.startup import notices_kept_back
from trainer.config import Config
from trainer.inference import Scorer
from trainer.run_folder import reason
from trainer.saved_model import CONFIG_ASSET, open_folder

LABELS_FILE = "labels.txt"
DESCRIPTION_FILE = "litert.json"

CALIBRATION_PHOTOS, PARITY_PHOTOS, DRAWN_PHOTOS = 32, 32, 8

MAX_DIFFERENCE = 1e-4
"""Of float scores from the SavedModel's, where those are as large as 1 or less."""

MIN_SAME_IDS = {"none": 0.999, "dynamic": 0.98, "int8": 0.95}
"""Least share of the pixels that must get the class that the SavedModel gives them."""

MAX_LOST_IOU = 0.01
"""How far a file's mean IoU may be below the SavedModel's on the same photos."""

Picture = tuple[np.ndarray, np.ndarray | None]
"""A photo, uint8 [H, W, 3], and its train ids, uint8 [H, W], where they are known."""

_EPOCH = (1980, 1, 1, 0, 0, 0)


class LiteRTError(UserError):
    """A SavedModel that cannot be converted, or a file that is no such conversion."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """How near a file comes to its SavedModel.

    Attributes:
      difference: The greatest of a score, as a share of the greatest score where that is above 1;
        NaN where a score is no number.
      same_ids: Share of the pixels that get the same class.
      mean_ious: The mean IoU of the file and of the SavedModel over the classes of the truth; None
        where that is not known, or all void.
    """

    difference: float
    same_ids: float
    mean_ious: tuple[float, float] | None = None


def export(saved_model: str, quantize: str, data_dir: str | None = None) -> tuple[str, Parity]:
    """Converts a SavedModel to a LiteRT file beside its folder: ``N.tflite``, ``N-int8.tflite``.

    The file is held against the SavedModel on photos of the validation split, which the ranges of
    int8 are not taken from, or on drawn ones where there are no records, before it gets its name.

    Args:
      saved_model: ``RUN/export/N``.
      quantize: ``none`` keeps float32; ``dynamic`` stores 8-bit weights; ``int8`` computes in 8
        bits, too, in ranges that are taken from records of the training split. Pixels and scores
        are float32 in any case.
      data_dir: A records folder of the same classes, with the splits that the SavedModel's
        configuration names.

    Returns:
      The file, and how near it comes.

    Raises:
      LiteRTError: Where int8 has no records, the SavedModel cannot be converted, or the file does
        not come near enough.
      UserError: Where there is no such SavedModel, or the records cannot be used.
    """
    if quantize == "int8" and not data_dir:
        raise LiteRTError(
            "--quantize=int8 takes its ranges from records: name them with --data_dir, or use "
            "--quantize=dynamic."
        )
    module, palette, assets = open_folder(saved_model)
    calibration: list[np.ndarray] = []
    pictures: Sequence[Picture]
    if data_dir:
        config = Config.from_json(assets[CONFIG_ASSET].decode(), CONFIG_ASSET)
        if quantize == "int8":
            reader = _open_records(data_dir, config.train_split, palette)
            calibration = [photo for photo, _ in read_pictures(reader, CALIBRATION_PHOTOS)]
        reader = _open_records(data_dir, config.validation_split, palette)
        pictures = read_pictures(reader, PARITY_PHOTOS)
    else:
        # Their truth is of Cityscapes' classes, which the network's need not be.
        rngs = map(np.random.default_rng, range(DRAWN_PHOTOS))
        pictures = [(street.draw_scene(rng, 128)[0], None) for rng in rngs]
    try:
        with notices_kept_back():
            network = convert(module, quantize, calibration)
    except ConverterError as error:
        raise LiteRTError(
            f"{saved_model!r} cannot be converted with --quantize={quantize}: {_cause(error)}. Try "
            "another --quantize, or serve the SavedModel itself."
        ) from error
    folder = os.path.normpath(saved_model)
    path = f"{folder}.tflite" if quantize == "none" else f"{folder}-{quantize}.tflite"
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(_with_files(network, {**assets, **_description(palette, quantize)}))
        parity = compare(load(temporary)[0], module.scores, pictures)
        check(parity, quantize)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return path, parity


def load(path: str) -> tuple[Scorer, Palette]:
    """Loads a file of `export`.

    Args:
      path: The file.

    Returns:
      A function from pixels to scores, for any number and size of photos; and the classes.

    Raises:
      LiteRTError: Where it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            palette = Palette.from_dict(json.loads(archive.read(PALETTE_FILE)))
        with notices_kept_back():
            interpreter = Interpreter(path, num_threads=os.cpu_count())
            interpreter.allocate_tensors()
            (pixels,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    except (OSError, ValueError, KeyError, RuntimeError, UserError, zipfile.BadZipFile) as error:
        raise LiteRTError(
            f"{path!r} is no LiteRT file of trainer.export: {reason(error)}."
        ) from error
    return functools.partial(_score, interpreter, pixels["index"], scores["index"]), palette


def _score(interpreter: Interpreter, pixels: int, scores: int, values: Any) -> np.ndarray:
    values = np.asarray(values, np.float32)
    interpreter.resize_tensor_input(pixels, values.shape, strict=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(pixels, values)
    interpreter.invoke()
    return interpreter.get_tensor(scores)


def convert(module: Any, quantize: str, calibration: Sequence[np.ndarray] = ()) -> bytes:
    """Converts a loaded SavedModel's ``scores``.

    Args:
      module: What ``tf.saved_model.load`` gives.
      quantize: Of `MIN_SAME_IDS`.
      calibration: Photos that int8's ranges are taken from, uint8 [H_i, W_i, 3] each.

    Raises:
      ConverterError: Where TensorFlow's converter cannot.
    """
    function = module.scores.get_concrete_function(
        tf.TensorSpec([None, None, None, 3], tf.float32, "pixels")
    )
    # Not left to the converter: of a Keras 3 model's function it makes a file without the weights,
    # which answers NaN.
    frozen = convert_variables_to_constants_v2(function)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], module)
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "int8":

        def inputs() -> Iterator[list[np.ndarray]]:
            for photo in calibration:
                yield [photo[np.newaxis].astype(np.float32)]

        converter.representative_dataset = inputs
    return converter.convert()


def _cause(error: ConverterError) -> str:
    """What the converter stumbled over, without the line of Python that it was called from."""
    return reason(error).rpartition("error: ")[2]


def compare(found: Scorer, expected: Callable[[Any], Any], pictures: Iterable[Picture]) -> Parity:
    """Holds two networks' scores of some pictures against each other, and against the truth."""
    differences, same = [], []
    matrices: list[Any] = [0, 0]
    for photo, truth in pictures:
        pixels = photo[np.newaxis].astype(np.float32)
        first, second = found(pixels), np.asarray(expected(tf.constant(pixels)))
        greatest = max(1.0, float(np.abs(second).max()))
        differences.append(float(np.abs(first - second).max()) / greatest)
        ids = [scores.argmax(axis=-1).astype(np.int32) for scores in (first, second)]
        same.append((ids[0] == ids[1]).mean())
        if truth is not None:
            num_classes = second.shape[-1]
            matrices = [
                matrix + confusion_matrix(truth[np.newaxis], seen, num_classes).numpy()
                for matrix, seen in zip(matrices, ids, strict=True)
            ]
    mean_ious = None
    if np.any(matrices[0]):
        mean_ious = _mean_iou(matrices[0]), _mean_iou(matrices[1])
    return Parity(float(np.max(differences)), float(np.mean(same)), mean_ious)


def _mean_iou(matrix: np.ndarray) -> float:
    """Over the classes of the truth, whatever else is predicted.

    A single pixel that is taken for a class that is not there would count as much as a whole class.
    """
    return float(metrics.iou_per_class(matrix)[matrix.sum(axis=1) > 0].mean())


def check(parity: Parity, quantize: str) -> None:
    """Refuses a file that does not come near enough.

    Raises:
      LiteRTError: Where it does not.
    """
    # Written so that NaN is refused.
    near = quantize != "none" or parity.difference <= MAX_DIFFERENCE
    finite = np.isfinite(parity.difference)
    if not (near and finite and parity.same_ids >= MIN_SAME_IDS[quantize]):
        bar = f"{MIN_SAME_IDS[quantize]:.1%} of the pixels must get the SavedModel's class"
        if quantize == "none":
            bar += f" and scores may differ by {MAX_DIFFERENCE:g}"
        raise LiteRTError(
            f"The LiteRT file with --quantize={quantize} is not near enough to its SavedModel: "
            f"{parity.same_ids:.2%} get the same class, scores differ by {parity.difference:.2g}; "
            f"{bar}. Nothing was written."
        )
    if parity.mean_ious is not None:
        found, expected = parity.mean_ious
        if not expected - found <= MAX_LOST_IOU:
            raise LiteRTError(
                f"The LiteRT file with --quantize={quantize} is not near enough to its SavedModel: "
                f"its mean IoU is {found:.4f}, the SavedModel's {expected:.4f} on the same photos; "
                f"it may be {MAX_LOST_IOU:g} lower. Nothing was written."
            )


def read_pictures(reader: RecordReader, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos of a split and their train ids, evenly spread over it.

    Args:
      reader: The split.
      count: How many, at most.

    Returns:
      uint8 [H_i, W_i, 3] and uint8 [H_i, W_i] of each.
    """
    count = min(count, len(reader))
    places = np.arange(count) * len(reader) // count
    records = tf.data.Dataset.from_tensor_slices(places).flat_map(reader.read).map(parse_record)
    return [(record["image"], record["label"]) for record in records.as_numpy_iterator()]


def _open_records(data_dir: str, split: str, palette: Palette) -> RecordReader:
    reader = RecordReader(data_dir, split)
    if reader.info.palette.entries != palette.entries:
        raise LiteRTError(f"The records in {data_dir!r} have other classes than the SavedModel.")
    return reader


def _description(palette: Palette, quantize: str) -> dict[str, bytes]:
    description = {
        "quantize": quantize,
        "input": "float32 [B, H, W, 3]: RGB, levels of 0 to 255; B, H and W by resizing the input",
        "output": "float32 [B, H, W, K]: a score for each class of labels.txt, the greatest wins",
    }
    return {
        LABELS_FILE: "".join(f"{name}\n" for name in palette.class_names).encode(),
        DESCRIPTION_FILE: json.dumps(description, indent=2).encode(),
    }


def _with_files(network: bytes, files: dict[str, bytes]) -> bytes:
    """A LiteRT file with others behind it, as a ZIP archive: its readers look from the end on."""
    buffer = io.BytesIO(network)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()
