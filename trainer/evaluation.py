"""Runs a network over a split and counts; what is said of the counts."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model import metrics
from model.confusion import confusion_matrix
from pipeline.input_fn import Batch, RecordReader, evaluation_dataset
from pipeline.palette import IGNORE_LABEL, Palette
from trainer import distribution, pictures, progress, run_folder
from trainer.inference import WHOLE_PHOTO, Inference, Scorer
from trainer.whole_file import write_whole


@dataclasses.dataclass(frozen=True)
class Example:
    """One evaluated picture: photo uint8 [H, W, 3], truth and prediction uint8 [H, W]."""

    key: str
    photo: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray

    @property
    def shown_prediction(self) -> np.ndarray:
        """The prediction, void where the truth is: what is there would only distract."""
        return np.where(self.truth == IGNORE_LABEL, self.truth, self.prediction)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that are not void that are right; NaN where all are void."""
        valid = self.truth != IGNORE_LABEL
        return float(np.mean((self.prediction == self.truth)[valid])) if valid.any() else math.nan


@dataclasses.dataclass(frozen=True)
class Counts:
    """What one pass over a split counts.

    Attributes:
      matrix: The confusion matrix, int64 [K, K], rows truth, columns prediction.
      pictures: Pixels of each picture, int64 [N, 2] in the split's order: those that are right and
        those that are not void.
    """

    matrix: np.ndarray
    pictures: np.ndarray

    def worst(self, count: int) -> list[int]:
        """Numbers of the pictures of the lowest pixel accuracy, the worst first.

        Of equal ones the earlier comes first; pictures that are all void are left out.
        """
        return self._ranked(1, count)

    def best(self, count: int) -> list[int]:
        """The same of the highest pixel accuracy, the best first."""
        return self._ranked(-1, count)

    def _ranked(self, sign: int, count: int) -> list[int]:
        right, valid = self.pictures.T
        accuracy = np.divide(right, valid, out=np.full(len(valid), np.nan), where=valid > 0)
        order = np.argsort(sign * accuracy, kind="stable")  # NaN comes last
        return [int(index) for index in order[: min(count, np.count_nonzero(valid))]]


class Evaluator:
    """Counts what a network gets right over a split, the same with any batch size or replicas.

    Each worker counts its own part of the split; the parts are added up once, at the end.

    Args:
      strategy: The strategy in whose scope the network was built.
      scorer: The network.
      reader: The split.
      num_classes: Number of classes, K.
      global_batch_size: Examples of a step; made a multiple of the replicas.
      inference: How it is shown the pictures; None for a network that sees each batch as it is,
        which is then compiled with the counting, and the only one that several replicas take.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        scorer: Scorer,
        reader: RecordReader,
        num_classes: int,
        global_batch_size: int,
        inference: Inference | None = None,
    ) -> None:
        replicas = strategy.num_replicas_in_sync
        batch_size = -(-global_batch_size // replicas) * replicas
        self._num_classes = num_classes
        self._reader = reader
        self.num_pictures = len(reader)
        self.num_steps = -(-len(reader) // batch_size)
        self._batches = strategy.distribute_datasets_from_function(
            lambda context: evaluation_dataset(
                reader,
                global_batch_size=batch_size,
                replicas=replicas,
                worker=context.input_pipeline_id,
                num_workers=context.num_input_pipelines,
            )
        )
        self._strategy = strategy

        def predict(images: tf.Tensor) -> tf.Tensor:
            if inference is not None:
                return inference.class_ids(scorer, images)
            return tf.argmax(scorer(images), axis=-1, output_type=tf.int32)

        def count(batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
            def replica_count(part: Batch) -> tuple[tf.Tensor, tf.Tensor]:
                predictions = predict(part["image"])
                matrix = confusion_matrix(part["label"], predictions, num_classes)
                return matrix, _picture_counts(part, predictions)

            matrices, pictures = strategy.run(replica_count, args=(batch,))
            matrix = tf.add_n(strategy.experimental_local_results(matrices))
            return matrix, tf.concat(strategy.experimental_local_results(pictures), axis=0)

        if inference is None:
            predict, count = tf.function(predict), tf.function(count)
        self._predict = predict
        self._count: Callable[[Any], tuple[tf.Tensor, tf.Tensor]] = count

    def count(self) -> Counts:
        """Counts over the whole split."""
        matrix = np.zeros((self._num_classes, self._num_classes), np.int64)
        pictures = np.zeros((self.num_pictures, 2), np.int64)
        shown = distribution.is_chief(self._strategy)
        for batch in progress.counted(self._batches, self.num_steps, "evaluate", shown):
            batch_matrix, rows = self._count(batch)
            matrix += batch_matrix.numpy()
            index, *counts = rows.numpy().T
            pictures[index] = np.transpose(counts)
        return Counts(
            distribution.worker_total(self._strategy, matrix),
            distribution.worker_total(self._strategy, pictures),
        )

    def confusion(self) -> np.ndarray:
        """The confusion matrix of the whole split: int64 [K, K], rows truth, columns prediction."""
        return self.count().matrix

    def first(self, count: int) -> list[int]:
        """Numbers of the first pictures of the split."""
        return list(range(min(count, self.num_pictures)))

    def examples(self, indices: Sequence[int]) -> Iterator[Example]:
        """Pictures of the split, by their numbers in it, with their predictions."""
        for batch in evaluation_dataset(self._reader, global_batch_size=1, indices=indices):
            yield Example(
                key=batch["key"][0].numpy().decode(),
                photo=batch["image"][0].numpy().astype(np.uint8),
                truth=batch["label"][0].numpy(),
                prediction=self._predict(batch["image"])[0].numpy().astype(np.uint8),
            )


def _picture_counts(part: Batch, predictions: tf.Tensor) -> tf.Tensor:
    """Number, right and valid pixels of each picture, filling left out: int64 [at most B, 3]."""
    labels = tf.cast(part["label"], predictions.dtype)
    right, valid = (
        tf.math.count_nonzero(pixels, axis=[1, 2])
        for pixels in (predictions == labels, labels != IGNORE_LABEL)
    )
    return tf.boolean_mask(tf.stack([part["index"], right, valid], axis=1), part["valid"])


def evaluator_of(
    scorer: Scorer,
    palette: Palette,
    source: str,
    data_dir: str,
    split: str,
    batch_size: int,
    inference: Inference | None = WHOLE_PHOTO,
) -> Evaluator:
    """Gets anything that gives scores ready to be scored on a split of records.

    Args:
      scorer: From a checkpoint, a SavedModel or another file.
      palette: Its classes.
      source: Where it is from.
      data_dir: A records folder of these classes; not necessarily the one it was trained on.
      split: The split's name.
      batch_size: Examples of a step.
      inference: See `Evaluator`.

    Raises:
      UserError: Where classes and records do not fit together.
    """
    reader = RecordReader(data_dir, split)
    if palette.entries != reader.info.palette.entries:
        raise run_folder.RunError(
            f"The records in {data_dir!r} have other classes than what is in {source!r}."
        )
    return Evaluator(
        tf.distribute.get_strategy(), scorer, reader, palette.num_classes, batch_size, inference
    )


def load_run(
    data_dir: str,
    model_dir: str,
    split: str,
    checkpoint: str,
    batch_size: int,
    inference: Inference = WHOLE_PHOTO,
) -> tuple[int, Evaluator, Palette]:
    """Gets a checkpoint of a run ready to be scored on a split of records.

    Args:
      data_dir: See `evaluator_of`.
      model_dir: The run's folder.
      split: The split's name.
      checkpoint: ``best`` or ``latest``.
      batch_size: Examples of a step.
      inference: How the pictures are shown to the network.

    Returns:
      The checkpoint's step, what scores it, and the classes.

    Raises:
      UserError: Where run, records and checkpoint do not fit together.
    """
    config, info = run_folder.load(model_dir)
    network = run_folder.build_network(config, info)
    step = run_folder.restore_model(network.model, model_dir, checkpoint)
    # What sees each picture as it is can be compiled with the counting.
    seen_as_is = inference == WHOLE_PHOTO
    scorer = network if seen_as_is else tf.function(network, reduce_retracing=True)
    evaluator = evaluator_of(
        scorer, info.palette, model_dir, data_dir, split, batch_size,
        None if seen_as_is else inference,
    )  # fmt: skip
    return step, evaluator, info.palette


def summarize(matrix: np.ndarray, palette: Palette) -> dict[str, Any]:
    """The metrics of a confusion matrix by name; a class without an IoU has None."""
    iou = metrics.iou_per_class(matrix)
    return {
        "mean_iou": metrics.mean_iou(matrix),
        "pixel_accuracy": metrics.pixel_accuracy(matrix),
        "class_accuracy": metrics.class_accuracy(matrix),
        "iou": {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(palette.class_names, iou, strict=True)
        },
        "absent_classes": [
            name for name, value in zip(palette.class_names, iou, strict=True) if np.isnan(value)
        ],
    }


def table(matrix: np.ndarray, palette: Palette) -> str:
    """The metrics as a table for a terminal: IoU, accuracy and share of the truth of each class."""
    summary = summarize(matrix, palette)
    accuracy = metrics.accuracy_per_class(matrix)
    share = matrix.sum(axis=1) / max(matrix.sum(), 1)
    lines = [f"{'class':<16}{'IoU':>8}{'accuracy':>10}{'pixels':>10}"]
    for index, (name, iou) in enumerate(summary["iou"].items()):
        cells = [f"{iou:.3f}" if iou is not None else "-", f"{accuracy[index]:.3f}"]
        lines.append(
            f"{name:<16}{cells[0]:>8}{cells[1].replace('nan', '-'):>10}{share[index]:>10.3%}"
        )
    lines.append(f"{'mean':<16}{summary['mean_iou']:>8.3f}{summary['class_accuracy']:>10.3f}")
    lines.append(f"Pixel accuracy {summary['pixel_accuracy']:.3f}.")
    if summary["absent_classes"]:
        absent = ", ".join(summary["absent_classes"])
        lines.append(f"Left out of the mean, in neither truth nor prediction: {absent}.")
    return "\n".join(lines)


def write(
    folder: str, split: str, matrix: np.ndarray, palette: Palette, about: Mapping[str, Any]
) -> str:
    """Writes ``evaluation-SPLIT.json`` and ``.png``: the figures, and the matrix as a picture.

    Args:
      folder: Made where it is not there.
      split: Name of what was evaluated.
      matrix: The confusion matrix, int64 [K, K].
      palette: The classes.
      about: What else the figures are to carry: what was evaluated, and how.

    Returns:
      The path without its suffix.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"evaluation-{split}")
    result = {**about, **summarize(matrix, palette), "confusion_matrix": matrix.tolist()}
    write_whole(f"{path}.json", json.dumps(result, indent=2))
    pictures.write_png(f"{path}.png", pictures.confusion_picture(matrix, palette.class_names))
    return path
