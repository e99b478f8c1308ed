"""What a run writes for TensorBoard."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hp

from pipeline.palette import Palette
from trainer import pictures
from trainer.config import Config
from trainer.evaluation import Example, summarize


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
            hp.hparams(_hparams(dataclasses.asdict(config)))

    def training(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars of training by name."""
        with self._train.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._train.flush()

    def validation(self, step: int, matrix: np.ndarray, examples: Iterable[Example]) -> None:
        """Metrics of a confusion matrix, the matrix itself, and photo | truth | prediction."""
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
        self._validation.flush()

    def _strip(self, example: Example) -> np.ndarray:
        # A prediction where there is no truth would only distract.
        prediction = np.where(example.truth == 255, 255, example.prediction)
        colored = [self._palette.colorize(labels) for labels in (example.truth, prediction)]
        return pictures.strip([example.photo, *colored])


def _hparams(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _hparams(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item if isinstance(item, (bool, int, float, str)) else str(item)
    return flat
