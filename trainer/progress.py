"""What a person at the terminal sees of a run."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

_T = TypeVar("_T")

_LONGEST_PAUSE = 30.0
"""Seconds between lines where there is no terminal to show a bar on."""


def say(line: str) -> None:
    """Writes a line to standard error; a bar stays below it."""
    tqdm.write(line, file=sys.stderr)


def counted(batches: Iterable[_T], total: int, name: str, shown: bool = True) -> Iterable[_T]:
    """The batches; while they are taken, a line with this name counts them, if there is a terminal.

    Unless it is not to be `shown`. It takes the place of a `Progress`'s line, and leaves it again.
    """
    return tqdm(
        batches,
        total=total,
        unit="batch",
        desc=name,
        leave=False,
        dynamic_ncols=True,
        position=0,
        disable=not (shown and sys.stderr.isatty()),
    )


class Progress:
    """One line that stays one, or lines now and then where standard error is no terminal.

    A context, at whose end the line stays as it is.

    Args:
      steps: Of the run.
      first_step: How many of them are done.
      shown: Whether anything is, which is for one of several workers to do.
    """

    def __init__(self, steps: int, first_step: int, shown: bool = True) -> None:
        self._steps = steps
        self._shown = shown
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            # Rate and time left are ours: tqdm's would count the compilation in the first step.
            bar_format="|{bar}| {n_fmt}/{total_fmt}{postfix}",
            dynamic_ncols=True,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._first_told: tuple[int, float] | None = None
        self._pause = 0.0
        self._next = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def due(self) -> bool:
        """Whether it is time to tell more: at once, then ever less often."""
        return self._shown and time.monotonic() >= self._next

    def advance(self) -> None:
        """Counts a step."""
        self._bar.update()

    def tell(self, step: int, loss: float, mean_iou: float, images_per_second: float) -> None:
        """Shows how the run goes.

        Args:
          step: Steps that are done.
          loss: The last.
          mean_iou: The last of validation; NaN before there is one.
          images_per_second: Of late.
        """
        told = [f"loss {loss:.3f}"]
        if not math.isnan(mean_iou):
            told.append(f"mIoU {mean_iou:.3f}")
        now = time.monotonic()
        if self._first_told is None:
            # The first step is compiled, so that its time says nothing of the others.
            self._first_told = step, now
        else:
            first_step, began = self._first_told
            left = (now - began) / (step - first_step) * (self._steps - step)
            told.append(f"{images_per_second:.1f} images/s")
            told.append(f"{tqdm.format_interval(left)} left")
        self._bar.set_postfix_str(", ".join(told))
        if self.due:
            if self._bar.disable:
                say(f"step {step:,} of {self._steps:,}: {', '.join(told)}")
            self._pause = min(2 * self._pause + 1, _LONGEST_PAUSE)
            self._next = now + self._pause
