"""Trains segmentation_models_pytorch's PSPNet by its own recipe, on our records.

    python -m benchmarks.smp_training DATA_DIR MINUTES EVALUATIONS PRESET [NAME=VALUE ...]

The recipe is that of the package's multi-class example (examples/camvid_segmentation_multiclass):
the multi-class Dice loss, Adam at 2e-4, cosine annealing to 1e-5, ImageNet's normalisation; the
encoder starts from random weights. Batches, crops and augmentation are those of the preset, and so
is the confusion matrix. Prints the minutes of training, without evaluations, and the validation
mIoU as a line of JSON, [[minutes, mIoU], ...].

It needs `pip install segmentation_models_pytorch` and torch.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np
import segmentation_models_pytorch as smp
import torch

from pipeline.startup import start_tensorflow
from trainer import config as config_lib
from trainer.config import Config

start_tensorflow()

from model import metrics  # noqa: E402
from model.backbones import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from model.confusion import confusion_matrix  # noqa: E402
from pipeline.input_fn import (  # noqa: E402
    Batch,
    RecordReader,
    evaluation_dataset,
    training_dataset,
)

_TIMED_STEPS = 6
_STRIDE = 8  # sides must divide by it


class Contender:
    """The network, and how it learns in a number of steps.

    Args:
      config: Seed, batches and splits are taken from it.
      data_dir: A records folder.
      steps: Of training.
    """

    def __init__(self, config: Config, data_dir: str, steps: int) -> None:
        torch.manual_seed(config.seed)
        self._config = config
        self._train = RecordReader(data_dir, config.train_split)
        self._validation = RecordReader(data_dir, config.validation_split)
        self._classes = self._train.info.palette.num_classes
        self._steps = steps
        self._network = smp.PSPNet("resnet18", encoder_weights=None, classes=self._classes)
        # The package has them as get_preprocessing_params, which asks a server for them.
        self._mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
        self._loss = smp.losses.DiceLoss(
            smp.losses.MULTICLASS_MODE, from_logits=True, ignore_index=255
        )
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=2e-4)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, T_max=steps, eta_min=1e-5
        )

    def train(self) -> Iterator[float]:
        """Trains to the end; gives the seconds of each step, its batch included."""
        batches = training_dataset(
            self._train,
            self._config.data,
            seed=self._config.seed,
            global_batch_size=self._config.batch_size,
            first_step=0,
            last_step=self._steps,
        )
        started = time.monotonic()
        for batch in batches:
            self._step(batch)
            yield time.monotonic() - started
            started = time.monotonic()

    def _step(self, batch: Batch) -> None:
        self._network.train()
        labels = torch.from_numpy(batch["label"].numpy().astype(np.int64))
        loss = self._loss(self._network(self._pixels(batch)), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()

    def _pixels(self, batch: Batch) -> torch.Tensor:
        pixels = torch.from_numpy(batch["image"].numpy()).permute(0, 3, 1, 2)
        return (pixels - self._mean) / self._std

    @torch.inference_mode()
    def mean_iou(self) -> float:
        """Of the validation split."""
        self._network.eval()
        matrix = np.zeros((self._classes, self._classes), np.int64)
        size = self._config.evaluation_batch_size
        for batch in evaluation_dataset(self._validation, global_batch_size=size):
            pixels = self._pixels(batch)
            height, width = pixels.shape[2:]
            pad = (0, -width % _STRIDE, 0, -height % _STRIDE)
            scores = self._network(torch.nn.functional.pad(pixels, pad))[..., :height, :width]
            predicted = scores.argmax(1).int().numpy()
            matrix += confusion_matrix(batch["label"], predicted, self._classes).numpy()
        return metrics.mean_iou(matrix)


def main(data_dir: str, minutes: str, evaluations: str, preset: str, *changes: str) -> None:
    assignments = [config_lib.parse_assignment(change) for change in changes]
    config = config_lib.override_all(config_lib.preset(preset), assignments)
    # The schedule must know its end: as for ours, the steps that fit are measured before.
    timed = list(Contender(config, data_dir, _TIMED_STEPS).train())
    steps = max(1, round(60 * float(minutes) / statistics.median(timed[1:])))
    contender = Contender(config, data_dir, steps)
    curve = [(0.0, contender.mean_iou())]
    interval, elapsed = max(1, -(-steps // int(evaluations))), 0.0
    for step, seconds in enumerate(contender.train(), start=1):
        elapsed += seconds
        if step % interval == 0 or step == steps:
            curve.append((elapsed / 60, contender.mean_iou()))
    print(json.dumps(curve))


if __name__ == "__main__":
    main(*sys.argv[1:])
