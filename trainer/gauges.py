"""Where a run's time and memory go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import tensorflow as tf

_MEBIBYTE = 2**20


class StepTimes:
    """Seconds that steps wait for their batches and seconds that they compute, as the host sees it.

    On a GPU a step returns when its work is queued, and reading its result waits for the work: so
    the last result is to be read in `computing` too. The sums over several steps are true then;
    but waits for input while the GPU is still at work are counted as input, so that what better
    input would save is at most that.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._input_wait = self._compute = 0.0

    @contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """In the block a step's batch is waited for."""
        began = time.monotonic()
        yield
        self._input_wait += time.monotonic() - began
        self._steps += 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In the block steps compute, or their results are waited for."""
        began = time.monotonic()
        yield
        self._compute += time.monotonic() - began

    @property
    def means(self) -> dict[str, float]:
        """Seconds a step, by the names of the summaries; nothing without a step."""
        if not self._steps:
            return {}
        return {
            "seconds/input_wait": self._input_wait / self._steps,
            "seconds/compute": self._compute / self._steps,
        }


def memory() -> dict[str, float]:
    """Mebibytes, by the names of the summaries: resident in the process, and each GPU's peak.

    A GPU's peak is of what TensorFlow allocated since it started, not of what it reserved.
    """
    found = {"mebibytes/process": psutil.Process().memory_info().rss / _MEBIBYTE}
    for device in tf.config.list_logical_devices("GPU"):
        number = device.name.rpartition(":")[2]
        peak = tf.config.experimental.get_memory_info(f"GPU:{number}")["peak"]
        found[f"mebibytes/gpu_{number}_peak"] = peak / _MEBIBYTE
    return found
