"""TensorFlow's profiler over some steps of a run. What a run computes is the same with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf


class Profiler:
    """Records steps for TensorBoard's profile plugin, in ``train/plugins/profile`` of the run.

    A context, as a run may end before the last step that is to be recorded.

    Args:
      model_dir: The run's folder.
      steps: The first and the last step to record, counted from 1; None for none.
    """

    def __init__(self, model_dir: str, steps: tuple[int, int] | None) -> None:
        self._folder = os.path.join(model_dir, "train")
        self._first, self._last = steps or (0, 0)
        self._records = False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """A context for the step of this number and the wait for its batch."""
        if number == self._first:
            tf.profiler.experimental.start(self._folder)
            self._records = True
        if not self._records:
            yield
            return
        with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
            yield
        if number == self._last:
            self._stop()

    def _stop(self) -> None:
        if self._records:
            self._records = False
            # A GPU may still be at work on steps that have returned.
            tf.test.experimental.sync_devices()
            tf.profiler.experimental.stop()
