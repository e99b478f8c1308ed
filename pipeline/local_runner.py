"""Beam's runner for one machine: quiet, ended by Ctrl-C, and not waiting for dead workers."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipeline.errors import UserError

_WORKER_THREAD = "run_worker"
"""Beam's name for the threads that each wait for one worker process."""


class WorkerDied(UserError):
    """A worker process that ended in the midst of its work."""


@contextmanager
def running(num_workers: int) -> Iterator[FnApiRunner]:
    """Gives the runner: in this process with one worker, in processes of its own with more.

    Beam's ``--direct_running_mode=multi_processing`` would do the same, but fails where Python
    lies in a folder with a space in its name, lets every worker narrate on standard error, leaves
    workers behind when this process is killed, and waits for ever when a worker is.

    Faults in the run come out with their own names; Beam's tracebacks are not logged on the way.

    Raises:
      KeyboardInterrupt: Where Beam made another error of it.
      OSError: Where one stands behind an error of Beam's, be it only in the text that came from
        a worker.
      WorkerDied: Where a worker process ended in the midst of its work.
    """
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        if num_workers == 1:
            yield FnApiRunner()
        else:
            with _lifeline() as lifeline, _noticing_deaths(lifeline):
                yield FnApiRunner(SubprocessSDKEnvironment.from_command_string(_command(lifeline)))
    except Exception as error:
        if "KeyboardInterrupt [while running" in str(error):
            raise KeyboardInterrupt from error
        if cause := os_error_in(str(error)):
            raise cause from error
        raise
    else:  # after a failure the runner's threads live on, and would narrate it
        logger.setLevel(level)


@contextmanager
def _lifeline() -> Iterator[Path]:
    """A file without which worker processes end."""
    with tempfile.TemporaryDirectory(prefix="preprocess-") as folder:
        path = Path(folder) / "lifeline"
        path.touch()
        yield path


def _command(lifeline: Path) -> str:
    # Ctrl-C is the job's to handle, also while Python starts in the worker. `exec`, so that the
    # shell does not stand between the worker and its parent.
    command = [sys.executable, "-m", "pipeline.local_worker", str(os.getpid()), str(lifeline)]
    return f"trap '' INT; exec {shlex.join(command)}"


@contextmanager
def _noticing_deaths(lifeline: Path) -> Iterator[None]:
    """Raises `WorkerDied` in the main thread, wherever it is, when a worker process dies.

    A signal does that: nothing else ends the runner's waiting. Then, as on Ctrl-C, the workers
    are ended first: the runner waits for those, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deaths: list[str] = []

    def on_thread_error(arguments: threading.ExceptHookArgs) -> None:
        """Hears of a dead worker from the thread that waited for it; the rest is its echo."""
        thread, text = arguments.thread, str(arguments.exc_value)
        if thread and thread.name == _WORKER_THREAD and lifeline.exists():
            deaths.append(text)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def on_death(number: int, frame: FrameType | None) -> None:
        if lifeline.exists():
            lifeline.unlink()
            raise WorkerDied(
                f"A worker process died ({deaths[0]}); most often the machine ran out of memory. "
                "Use fewer --num_workers."
            )

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        lifeline.unlink(missing_ok=True)
        signal.default_int_handler(number, frame)

    hook, threading.excepthook = threading.excepthook, on_thread_error
    handlers = {signal.SIGUSR1: signal.signal(signal.SIGUSR1, on_death)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if lifeline.exists():  # else the runner's threads go on failing
            threading.excepthook = hook


def os_error_in(text: str) -> OSError | None:
    """The last error of the operating system that a text tells of."""
    quoted = r"""'[^'\n]+'|"[^"\n]+\""""
    found = re.findall(rf"\[Errno (\d+)\] ([^:'\"\[\n]*)(?:: ({quoted}))?", text)
    if not found:
        return None
    number, reason, path = found[-1]
    return OSError(int(number), reason.strip() or os.strerror(int(number)), path[1:-1] or None)
