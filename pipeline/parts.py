"""A job's parts: the summaries that workers leave of those they finished, and what is told."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from apache_beam.io.filesystems import FileSystems
from tqdm import tqdm

from pipeline import files
from pipeline.output_folder import Staging

SUMMARY_SUFFIX = ".summary.json"

_WATCH_SECONDS = 1.0
_LINE_SECONDS = 30.0
"""Between lines of progress where there is no terminal to show a bar on."""

Summary = TypeVar("Summary")


def read_summary(path: str, parse: Callable[[str], Summary]) -> Summary | None:
    """Reads a part's summary; None where it is missing or damaged, as after a loss of power.

    Args:
      path: Of the file.
      parse: From its text; raises a `ValueError` where that is none.
    """
    if not FileSystems.exists(path):
        return None
    try:
        return parse(files.read_bounded(path).decode())
    except ValueError:
        return None


def read_summaries(
    staging: Staging, parse: Callable[[str], Summary], seen: set[str] | None = None
) -> list[Summary]:
    """The summaries in a staging folder that are not yet in `seen`, which they are added to."""
    seen = set() if seen is None else seen
    found = []
    for path in files.list_files(staging.work, f"*{SUMMARY_SUFFIX}"):
        if path not in seen and (summary := read_summary(path, parse)):
            seen.add(path)
            found.append(summary)
    return found


@contextmanager
def telling_what_is_finished(
    staging: Staging, count: Callable[[], int], total: int, what: str
) -> Iterator[None]:
    """Says at the start what an earlier run has left, and after a fault what this one leaves.

    Args:
      staging: Where it is.
      count: How many are finished now.
      total: How many there are to do.
      what: Their name, in the plural.
    """
    if done := count():
        print(f"Going on with an earlier run: {done} of {total} {what} are there.", file=sys.stderr)
    try:
        yield
    except BaseException:
        if done := count():
            print(
                f"{done} of {total} {what} are finished and stay in {staging.records!r}; the same "
                "command goes on with them.",
                file=sys.stderr,
            )
        raise


@contextmanager
def progress(newly_done: Callable[[], int], total: int, unit: str, title: str) -> Iterator[None]:
    """Shows how many inputs are done, part by part, while the pipeline runs anywhere.

    Args:
      newly_done: How many more are done than when it was last asked.
      total: How many there are to do.
      unit: Their name, in the singular.
      title: What is done.
    """
    stop = threading.Event()
    done = newly_done()
    hidden = not sys.stderr.isatty()
    with tqdm(total=total, initial=done, unit=unit, desc=title, disable=hidden) as bar:

        def watch() -> None:
            nonlocal done
            last_line = time.monotonic()
            while not stop.wait(_WATCH_SECONDS):
                count = newly_done()
                done += count
                bar.update(count)
                if bar.disable and time.monotonic() - last_line > _LINE_SECONDS:
                    print(f"{done:,} of {total:,} {unit}s", file=sys.stderr)
                    last_line = time.monotonic()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        bar.update(total - done)  # what was done since it was last asked; not so where a job failed
