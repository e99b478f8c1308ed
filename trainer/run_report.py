"""What there is to say of a run: recipe, curves, and what its best checkpoint gets right."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from pipeline import dataset_info
from pipeline.dataset_info import INFO_FILE, DatasetInfo, SplitInfo
from trainer import curves, evaluation, run_folder
from trainer.config import Config
from trainer.curves import Point
from trainer.evaluation import Example

NUM_PICTURES = 6
"""Of the best and of the worst, at most."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What the best checkpoint gets right of a validation split.

    Attributes:
      info: Of the records that it is measured on; not necessarily the run's own.
      step: The checkpoint's.
      matrix: The confusion matrix, int64 [K, K], rows truth, columns prediction.
      num_pictures: Of the split.
      best: The pictures of the highest pixel accuracy, the best first.
      worst: Those of the lowest, the worst first; none of them is among the best as well.
    """

    info: DatasetInfo
    step: int
    matrix: np.ndarray
    num_pictures: int
    best: Sequence[Example]
    worst: Sequence[Example]


@dataclasses.dataclass(frozen=True)
class RunReport:
    """All that a page says of a run.

    Attributes:
      name: Of its folder.
      config: Its recipe.
      info: Of the records it was trained on.
      training: What was logged while training, by name.
      validation: What was logged of validation, by name.
      measurement: None where the records are not at hand.
    """

    name: str
    config: Config
    info: DatasetInfo
    training: Mapping[str, Sequence[Point]]
    validation: Mapping[str, Sequence[Point]]
    measurement: Measurement | None

    @property
    def other_records(self) -> DatasetInfo | None:
        """The records of the measurement, where its pictures are not those of the run's own.

        The description of a split holds its shards' checksums: equal ones are of equal pictures,
        wherever they lie.
        """
        if self.measurement is None:
            return None
        info, split = self.measurement.info, self.config.validation_split
        return None if info.splits[split] == self.info.splits.get(split) else info

    @property
    def measured_split(self) -> SplitInfo:
        """What is measured on, or was while training."""
        return (self.other_records or self.info).split(self.config.validation_split)

    @property
    def best_point(self) -> Point | None:
        """The highest validation mIoU that was logged, if one was."""
        points = self.validation.get("mean_iou", ())
        return max(points, key=lambda point: point.value, default=None)


def gather(model_dir: str, data_dir: str | None = None) -> RunReport:
    """Reads a run's folder, and scores its best checkpoint on the validation split.

    Args:
      model_dir: The run's folder.
      data_dir: A records folder of the run's classes; by default the one it was trained on, if
        that is still there.

    Raises:
      UserError: Where run, records and checkpoint do not fit together.
    """
    config, info = run_folder.load(model_dir)
    data_dir = data_dir or _own_records(info)
    return RunReport(
        name=os.path.basename(os.path.abspath(model_dir)),
        config=config,
        info=info,
        training=curves.read_all(model_dir, "train"),
        validation=curves.read_all(model_dir, "validation"),
        measurement=None if data_dir is None else _measure(model_dir, data_dir, config),
    )


def _own_records(info: DatasetInfo) -> str | None:
    """The folder that a run was trained on, if there are records of its classes still."""
    folder = info.data_dir
    if folder is None or not (epath.Path(folder) / INFO_FILE).exists():
        return None
    same = dataset_info.load_info(folder).palette.entries == info.palette.entries
    return folder if same else None


def _measure(model_dir: str, data_dir: str, config: Config) -> Measurement:
    step, evaluator, _ = evaluation.load_run(
        data_dir, model_dir, config.validation_split, "best", config.evaluation_batch_size
    )
    counts = evaluator.count()
    shown = min(NUM_PICTURES, -(-evaluator.num_pictures // 2))
    best = counts.best(shown)
    worst = [index for index in counts.worst(shown) if index not in best]
    return Measurement(
        info=dataset_info.load_info(data_dir),
        step=step,
        matrix=counts.matrix,
        num_pictures=evaluator.num_pictures,
        best=list(evaluator.examples(best)),
        worst=list(evaluator.examples(worst)),
    )
