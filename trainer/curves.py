"""A run's TensorBoard scalars, read back."""

from __future__ import annotations

import os
from typing import NamedTuple


class Point(NamedTuple):
    """A scalar of a step, and the seconds since the epoch at which it was written."""

    step: int
    wall_time: float
    value: float


def read(model_dir: str, part: str, tag: str) -> list[Point]:
    """What a run has logged of one scalar, by its steps; see `read_all`."""
    return read_all(model_dir, part).get(tag, [])


def read_all(model_dir: str, part: str) -> dict[str, list[Point]]:
    """What a run has logged of all its scalars, by their names and steps.

    A run that went on after a kill has logged some steps twice; the last written counts.

    Args:
      model_dir: The run's folder.
      part: ``train`` or ``validation``.

    Returns:
      By names such as ``mean_iou``, see `trainer.summaries`, a point for each step, in order;
      nothing where nothing was logged yet.
    """
    # Here, as reading imports TensorFlow, which a command should be able to leave for later.
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from tensorboard.backend.event_processing import plugin_event_accumulator
    from tensorboard.util import tensor_util

    folder = os.path.join(model_dir, part)
    if not os.path.isdir(folder):
        return {}
    accumulator = plugin_event_accumulator.EventAccumulator(
        folder,
        # Every scalar, but of the pictures no more than one, as they would be kept in memory.
        size_guidance={plugin_event_accumulator.TENSORS: 1},
        tensor_size_guidance={"scalars": 0},
    )
    accumulator.Reload()
    points = {}
    for tag in accumulator.Tags()[plugin_event_accumulator.TENSORS]:
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            events = sorted(accumulator.Tensors(tag), key=lambda event: event.wall_time)
            last = {event.step: event for event in events}
            points[tag] = [
                Point(step, event.wall_time, float(tensor_util.make_ndarray(event.tensor_proto)))
                for step, event in sorted(last.items())
            ]
    return points
