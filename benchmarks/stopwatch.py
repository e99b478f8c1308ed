"""Times functions until enough time has passed, and reports what a contender measured."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


class Call(NamedTuple):
    """The median of a function's calls: seconds on the clock, and of this process's CPU time."""

    seconds: float
    cpu_seconds: float


def measure(function: Callable[[], object], at_least: float) -> Call:
    """Calls a function twice to warm up, then three times or more until `at_least` seconds passed.

    Args:
      function: What to time; it must not return before its work is done.
      at_least: Seconds.
    """
    for _ in range(2):
        function()
    calls: list[Call] = []
    while len(calls) < 3 or sum(call.seconds for call in calls) < at_least:
        clock, cpu = time.perf_counter(), time.process_time()
        function()
        calls.append(Call(time.perf_counter() - clock, time.process_time() - cpu))
    return Call(*map(statistics.median, zip(*calls, strict=True)))


def peak_bytes() -> int:
    """Most memory that this process held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(parameters: int, forward: Call, step: Call, **more: float) -> None:
    """Prints what a contender measured, and its peak memory so far, as a line of JSON.

    Args:
      parameters: How many are trained.
      forward: A call of the inference.
      step: A training step.
      **more: What else is known of the contender; its ``peak_bytes``, if not those so far.
    """
    measured = {
        "parameters": parameters,
        "forward": forward.seconds,
        "step": step.seconds,
        "step_cpu": step.cpu_seconds,
        "peak_bytes": peak_bytes(),
        **more,
    }
    print(json.dumps(measured))
