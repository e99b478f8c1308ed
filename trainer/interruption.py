"""Ctrl-C and SIGTERM, kept until a run can stop without loss."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}
"""A scheduler that asks a run to end has not failed; who pressed Ctrl-C sees what they expect."""


class Interrupted(Exception):
    """A run that stopped because it was asked to, with its state saved.

    Args:
      number: The signal that asked.
      step: The last step that is saved.

    Attributes:
      exit_code: For the process.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(number).name}; step {step:,} is saved. The same command "
            "goes on from there."
        )
        self.exit_code = EXIT_CODES[signal.Signals(number)]


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """In the block SIGTERM ends the process in a sentence, as a run ends that it has stopped."""

    def end(number: int, _: FrameType | None) -> None:
        print(
            f"Stopped by {signal.Signals(number).name} between steps. The same command goes on "
            "from the last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(EXIT_CODES[signal.Signals(number)])

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def kept_signals() -> Iterator[Callable[[], int | None]]:
    """In the block, the first signal is kept, and given by the function that comes with it.

    A second one does what it always did. Outside of the main thread signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    kept: list[int] = []

    def keep(number: int, _: FrameType | None) -> None:
        kept.append(number)
        restore()

    before = {number: signal.signal(number, keep) for number in EXIT_CODES}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield lambda: kept[0] if kept else None
    finally:
        restore()
