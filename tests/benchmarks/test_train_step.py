"""A contender is really measured in its own process, and the table says what was measured."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import stopwatch, train_step
from benchmarks.train_step import Measured

ROOT = Path(__file__).parents[2]


def test_a_call_is_timed_on_the_clock_and_in_cpu_time():
    calls = []

    def sleep():
        calls.append(1)
        time.sleep(0.05)

    call = stopwatch.measure(sleep, 0.2)
    assert call.seconds >= 0.05
    assert call.cpu_seconds < 0.04
    assert len(calls) >= 5  # two to warm up


@pytest.mark.slow
def test_our_network_is_measured():
    command = [sys.executable, "-m", "benchmarks.keras_step", "demo", "2", "32", "0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert 0 < measured["forward"] < measured["step"]
    assert measured["parameters"] > 100_000
    assert measured["peak_bytes"] > 2**27


def test_every_contender_runs_on_every_backbone_but_the_articles():
    rows = train_step.contenders(train_step.CONTENDERS, train_step.BACKBONES)
    assert len(rows) == len(set(rows)) == 9
    assert sum(name == "article" for name, _ in rows) == 1


@pytest.mark.parametrize(("name", "expected"), [("ours", 256), ("segmentation_models", 240)])
def test_sides_are_those_a_contender_takes(name, expected):
    assert train_step.side(name, 256) == expected


def test_table_compares_with_pytorch_on_the_same_backbone():
    measured = {
        ("ours", "resnet18"): Measured(100, 1.0, 3.0, 6.0, 2**30),
        ("torch", "resnet18"): Measured(100, 1.0, 4.0, 8.0, 2**29),
        ("ours", "resnet50"): Measured(200, 2.0, 6.0, 12.0, 2**30),
    }
    _, ours, torch, alone = train_step.table(measured, batch_size=8).splitlines()
    assert ours.split() == ["ours", "resnet18", "100", "125", "375", "0.75", "1,024"]
    assert torch.split()[5] == "1.00"
    assert alone.split()[5] == "-"
