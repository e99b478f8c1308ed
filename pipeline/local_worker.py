"""A worker process of `pipeline.local_runner`: Beam's own, quiet, and gone when its job is."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time


def main(job: int, lifeline: str) -> None:
    """Works until the job, its parent process, is done or gone or has deleted `lifeline`."""
    threading.Thread(target=_end_with, args=(job, lifeline), daemon=True).start()
    with open(os.devnull, "w") as nowhere:
        # Whatever goes wrong is told to the job, which says it once; Beam would print it here too,
        # and gRPC's threads when they are cut off.
        os.dup2(nowhere.fileno(), 2)
        importlib.import_module("apache_beam.runners.worker.sdk_worker_main").main(sys.argv)


def _end_with(job: int, lifeline: str) -> None:
    while os.getppid() == job and os.path.exists(lifeline):
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
