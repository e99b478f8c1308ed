"""What is measured of a run: time where it is spent, memory where it is used."""

import time

import numpy as np

from trainer import gauges


def test_seconds_are_means_over_the_steps():
    times = gauges.StepTimes()
    assert times.means == {}
    for wait in (0.1, 0.3):
        with times.waiting_for_input():
            time.sleep(wait)
        with times.computing():
            pass
    with times.computing():  # The results are waited for, which is no step of its own.
        time.sleep(0.1)
    # Sleeping takes no less than it says; how much more, the machine decides.
    wait, compute = times.means["seconds/input_wait"], times.means["seconds/compute"]
    assert wait >= 0.2
    assert compute >= 0.05


def test_each_block_counts_for_itself():
    times = gauges.StepTimes()
    with times.waiting_for_input():
        pass
    began = time.monotonic()
    with times.computing():
        time.sleep(0.05)
    taken = time.monotonic() - began
    assert 0.05 <= times.means["seconds/compute"] <= taken
    began = time.monotonic()
    with times.waiting_for_input():
        pass
    # Two steps now, of which none waited for what was computed.
    assert times.means["seconds/compute"] <= taken / 2


def test_memory_is_that_of_the_process():
    before = gauges.memory()["mebibytes/process"]
    held = np.ones(100 * 2**17)  # 100 MiB of float64, each page written
    assert gauges.memory()["mebibytes/process"] > before + 90
    assert held[-1] == 1
