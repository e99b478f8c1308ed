"""Runs a command and measures it with all processes it starts."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

_ROOT = Path(__file__).parent.parent
_SAMPLE_SECONDS = 1.0
"""Often enough for jobs of seconds; each sample takes a processor some 15 ms."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
      seconds: On the clock.
      cpu_seconds: Of all its processes, user and system.
      peak_bytes: Most memory that all its processes held at once. What several share, as after a
        fork, counts once where the system tells it (Linux), and else is left out.
      memory: The samples of that memory, as seconds since the epoch and bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    memory: list[tuple[float, int]] = dataclasses.field(default_factory=list)


def measure(command: Sequence[str]) -> Usage:
    """Runs a command from the repository's root to its end.

    Raises:
      RuntimeError: Where it fails; with the end of what it said.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=_ROOT, stdout=said, stderr=said)
        try:
            with _watching_memory(process.pid) as memory:
                code = process.wait()
        finally:
            process.kill()
            process.wait()
        seconds = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if code:
            said.seek(0)
            text = said.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)} ended with {code}: {text[-2000:]}")
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = max((held for _, held in memory), default=0)
    return Usage(seconds, cpu_seconds, peak, memory)


@contextlib.contextmanager
def _watching_memory(pid: int) -> Iterator[list[tuple[float, int]]]:
    """Gives the samples, which are all there when the block has ended."""
    samples: list[tuple[float, int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            samples.append((time.time(), _tree_bytes(pid)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _tree_bytes(pid: int) -> int:
    """Memory of a process and its descendants; what ends meanwhile counts nothing."""
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.uss)
    return total
