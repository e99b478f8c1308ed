"""Ends a worker that has waited too long for the others to start.

TensorFlow may keep Python's lock while it waits, so that no other thread of the process can say so.
Another process says which workers are missing, and `faulthandler`, which needs no lock, ends it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer import cluster

_POLL_SECONDS = 0.2
_SECONDS_TO_SAY_IT = 5


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Ends this process, one of those that TF_CONFIG names, where the block takes longer.

    The exit code is 1 then, after a sentence on stderr that names the workers that are missing.
    Nothing may have been written yet that could be lost. In the block Ctrl-C ends the process at
    once, so it must be the main thread's.
    """
    # Python would see Ctrl-C only after the wait.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    watch = subprocess.Popen(
        [sys.executable, "-m", "trainer.start_watch", f"{seconds:g}"],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it.
    )
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds + _SECONDS_TO_SAY_IT, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            watch.kill()
            watch.wait()
            signal.signal(signal.SIGINT, before)


def _watch(seconds: float) -> None:
    worker = os.getppid()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.getppid() != worker:
            return
        time.sleep(_POLL_SECONDS)
    missing = ", ".join(cluster.silent(cluster.from_environment())) or "one of them"
    print(
        f"error: Not all workers started within {seconds:g} s (--start_timeout); missing: "
        f"{missing}.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    _watch(float(sys.argv[1]))
