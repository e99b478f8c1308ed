"""Beam's runner for one machine: quiet, ended by Ctrl-C, and not waiting for dead workers."""

from __future__ import annotations

import _thread
import logging
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipeline.errors import UserError

_WORKER_THREAD = "run_worker"
"""Beam's name of the threads that each wait for one worker process."""


class WorkerDied(UserError):
    """A worker process that ended in the midst of its work."""


def create(num_workers: int) -> FnApiRunner:
    """The runner: in this process with one worker, in processes of its own with more.

    Beam's ``--direct_running_mode=multi_processing`` would do the same, but fails where Python
    lies in a folder with a space in its name, and lets every worker narrate on standard error.
    What workers log reaches this process by another way.
    """
    if num_workers == 1:
        return FnApiRunner()
    worker = f"{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(f"{worker} 2>{os.devnull}"))


@contextmanager
def guarding() -> Iterator[None]:
    """Gives faults in a run their own names; Beam's tracebacks are not logged on the way.

    Raises:
      KeyboardInterrupt: Where Beam made another error of it.
      OSError: Where one stands behind an error of Beam's, be it only in the text that came from
        a worker.
      WorkerDied: Where a worker process ended; Beam would wait for its answer for ever.
    """
    deaths: list[str] = []
    main_thread = threading.current_thread() is threading.main_thread()

    def on_thread_error(arguments: threading.ExceptHookArgs) -> None:
        text = str(arguments.exc_value)
        if arguments.thread is None or arguments.thread.name != _WORKER_THREAD:
            return
        # Ctrl-C reaches the workers and this process alike.
        if main_thread and not deaths and not re.search(r"code (-2|130)$", text):
            deaths.append(text)
            _thread.interrupt_main()

    logger = logging.getLogger("apache_beam")
    level, hook = logger.level, threading.excepthook
    logger.setLevel(logging.CRITICAL)
    threading.excepthook = on_thread_error
    try:
        yield
    except KeyboardInterrupt:
        if deaths:
            raise WorkerDied(_sentence(deaths[0])) from None
        raise
    except Exception as error:
        if "KeyboardInterrupt [while running" in str(error):
            raise KeyboardInterrupt from error
        if cause := _os_error_in(str(error)):
            raise cause from error
        raise
    finally:
        logger.setLevel(level)
        threading.excepthook = hook


def _sentence(death: str) -> str:
    return (
        f"A worker process died ({death}); most often the machine ran out of memory. Use fewer "
        "--num_workers."
    )


def _os_error_in(text: str) -> OSError | None:
    """The last error of the operating system that a text tells of."""
    found = re.findall(r"\[Errno (\d+)\] [^'\[\n]*(?:'([^'\n]+)')?", text)
    if not found:
        return None
    number, path = int(found[-1][0]), found[-1][1] or None
    return OSError(number, os.strerror(number), path)
