"""Runs a network over a split and counts."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from model import metrics
from model.confusion import confusion_matrix
from model.networks import Network
from pipeline.input_fn import Batch, RecordReader, evaluation_dataset
from pipeline.palette import Palette
from trainer import run_folder


@dataclasses.dataclass(frozen=True)
class Example:
    """One evaluated picture: photo uint8 [H, W, 3], truth and prediction uint8 [H, W]."""

    key: str
    photo: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class Evaluator:
    """Counts a network's confusion matrix over a split, the same with any batch size or replicas.

    Args:
      strategy: The strategy in whose scope the network was built.
      network: The network.
      reader: The split.
      num_classes: Number of classes, K.
      global_batch_size: Examples of a step; made a multiple of the replicas.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        network: Network,
        reader: RecordReader,
        num_classes: int,
        global_batch_size: int,
    ) -> None:
        replicas = strategy.num_replicas_in_sync
        batch_size = -(-global_batch_size // replicas) * replicas
        self._num_classes = num_classes
        self._reader = reader
        self.num_steps = -(-len(reader) // batch_size)
        self._batches = strategy.distribute_datasets_from_function(
            lambda _: evaluation_dataset(reader, global_batch_size=batch_size, replicas=replicas)
        )

        @tf.function
        def predict(images: tf.Tensor) -> tf.Tensor:
            scores = network.objective.scores(network.model(images, training=False))
            return tf.argmax(scores, axis=-1, output_type=tf.int32)

        @tf.function
        def count(batch: Any) -> tf.Tensor:
            def replica_count(part: Batch) -> tf.Tensor:
                return confusion_matrix(part["label"], predict(part["image"]), num_classes)

            counts = strategy.run(replica_count, args=(batch,))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, counts, axis=None)

        self._predict = predict
        self._count: Callable[[Any], tf.Tensor] = count

    def confusion(self) -> np.ndarray:
        """The confusion matrix of the whole split: int64 [K, K], rows truth, columns prediction."""
        matrix = np.zeros((self._num_classes, self._num_classes), np.int64)
        for batch in tqdm(
            self._batches,
            total=self.num_steps,
            unit="batch",
            desc="evaluate",
            leave=False,
            disable=not sys.stderr.isatty(),
        ):
            matrix += self._count(batch).numpy()
        return matrix

    def examples(self, count: int) -> Iterator[Example]:
        """The first pictures of the split with their predictions."""
        dataset = evaluation_dataset(self._reader, global_batch_size=1)
        for batch in dataset.take(min(count, len(self._reader))):
            yield Example(
                key=batch["key"][0].numpy().decode(),
                photo=batch["image"][0].numpy().astype(np.uint8),
                truth=batch["label"][0].numpy(),
                prediction=self._predict(batch["image"])[0].numpy().astype(np.uint8),
            )


def evaluate_run(
    data_dir: str, model_dir: str, split: str, checkpoint: str, batch_size: int
) -> tuple[int, np.ndarray, Palette]:
    """Scores a checkpoint of a run on a split of records.

    Args:
      data_dir: A records folder of the run's classes; not necessarily the one it trained on.
      model_dir: The run's folder.
      split: The split's name.
      checkpoint: ``best`` or ``latest``.
      batch_size: Examples of a step.

    Returns:
      The checkpoint's step, the confusion matrix int64 [K, K], and the classes.

    Raises:
      UserError: Where run, records and checkpoint do not fit together.
    """
    reader = RecordReader(data_dir, split)
    config, info = run_folder.load(model_dir)
    if info.palette.entries != reader.info.palette.entries:
        raise run_folder.RunError(
            f"The records in {data_dir!r} have other classes than the run in {model_dir!r}."
        )
    network = run_folder.build_network(config, info)
    step = run_folder.restore_model(network.model, model_dir, checkpoint)
    evaluator = Evaluator(
        tf.distribute.get_strategy(),
        network,
        reader,
        info.palette.num_classes,
        batch_size,
    )
    return step, evaluator.confusion(), info.palette


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
