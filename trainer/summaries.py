"""What a run writes for TensorBoard."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hp
from tensorboard.plugins.hparams import api_pb2 as hp_protos
from tensorboard.plugins.hparams import summary as hp_summary

from pipeline.palette import Palette
from trainer import pictures
from trainer.config import Config
from trainer.evaluation import Example, summarize

_METRICS = {"mean_iou": "validation mIoU", "pixel_accuracy": "validation pixel accuracy"}
"""Of validation, in the table of runs and their HParams, with their titles."""

_FIRST_HPARAMS = (
    "batch_size", "model.backbone", "model.name", "optimizer.learning_rate", "steps",
)  # fmt: skip
"""What that table shows of the HParams until others are ticked."""

_CHARTS = {"IoU per class": "iou/.*", "Seconds a step": "seconds/.*"}
"""Charts of several tags, by their title."""


class Summaries:
    """Writers of one run's training and validation summaries.

    Args:
      model_dir: The run's folder.
      config: Shown as text and as HParams.
      palette: Class names and colours.
    """

    def __init__(self, model_dir: str, config: Config, palette: Palette) -> None:
        self._palette = palette
        self._train = tf.summary.create_file_writer(os.path.join(model_dir, "train"))
        self._validation = tf.summary.create_file_writer(os.path.join(model_dir, "validation"))
        with self._validation.as_default():
            tf.summary.text("config", f"```\n{config.to_json()}```", step=0)
            hparams = _hparams(dataclasses.asdict(config))
            hp.hparams(hparams)
            for proto in (_experiment(hparams), _layout()):
                tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=0)

    def training(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars of training by name."""
        with self._train.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._train.flush()

    def validation(
        self, step: int, matrix: np.ndarray, examples: Iterable[Example], worst: Iterable[Example]
    ) -> None:
        """Metrics of a confusion matrix, the matrix itself, and photo | truth | prediction.

        Args:
          step: At which was evaluated.
          matrix: int64 [K, K].
          examples: The same at each step; their keys name them.
          worst: Other ones at each step; their rank names them, so that one slider shows how they
            change.
        """
        summary = summarize(matrix, self._palette)
        with self._validation.as_default(step=step):
            tf.summary.scalar("mean_iou", summary["mean_iou"])
            tf.summary.scalar("pixel_accuracy", summary["pixel_accuracy"])
            for name, iou in summary["iou"].items():
                if iou is not None:
                    tf.summary.scalar(f"iou/{name}", iou)
            picture = pictures.confusion_picture(matrix, self._palette.class_names)
            tf.summary.image("confusion_matrix", picture[np.newaxis])
            for example in examples:
                tf.summary.image(f"examples/{example.key}", self._strip(example)[np.newaxis])
            for rank, example in enumerate(worst, start=1):
                caption = f"{example.pixel_accuracy:.1%} {example.key}"
                picture = pictures.with_caption(self._strip(example), caption)
                tf.summary.image(f"worst/{rank}", picture[np.newaxis])
        self._validation.flush()

    def _strip(self, example: Example) -> np.ndarray:
        shown = (example.truth, example.shown_prediction)
        colored = [self._palette.colorize(labels) for labels in shown]
        return pictures.strip([example.photo, *colored])


def describe_sweep(folder: str, values: Mapping[str, Sequence[Any]]) -> None:
    """Tells HParams what the runs below a folder are compared in: these values and the mIoU.

    Args:
      folder: Of the sweep.
      values: Of each name that differs, such as ``optimizer.learning_rate``, one for each run.
    """
    with tf.summary.create_file_writer(folder).as_default():
        hp.hparams_config(
            hparams=[hp.HParam(name, _domain(tried)) for name, tried in values.items()],
            # A run's values stand among its validation's logs, and so does this.
            metrics=[hp.Metric("mean_iou", display_name="validation mIoU")],
        )


def _domain(tried: Sequence[Any]) -> hp.Domain:
    if all(type(value) is float for value in tried):
        return hp.RealInterval(min(tried), max(tried))
    return hp.Discrete([_hparam(value) for value in dict.fromkeys(tried)])


def _experiment(hparams: dict[str, Any]) -> tf.compat.v1.Summary:
    """The table's columns. Without it TensorBoard would show five scalars by their alphabet."""
    return hp_summary.experiment_pb(
        hparam_infos=[
            hp_protos.HParamInfo(name=name, differs=name in _FIRST_HPARAMS) for name in hparams
        ],
        metric_infos=[
            hp_protos.MetricInfo(name=hp_protos.MetricName(tag=tag), display_name=title)
            for tag, title in _METRICS.items()
        ],
    )


def _layout() -> tf.compat.v1.Summary:
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[tags]))
        for title, tags in _CHARTS.items()
    ]
    category = layout_pb2.Category(title="Together", chart=charts)
    return custom_scalar.pb(layout_pb2.Layout(category=[category]))


def _hparams(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _hparams(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = _hparam(item)
    return flat


def _hparam(value: Any) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
