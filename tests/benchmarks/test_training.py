"""The benchmark of training really trains, and says what it measured."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import training

ROOT = Path(__file__).parents[2]


def test_rates_are_compared_with_the_bare_step():
    text = training.table({"bare step": 4.0, "loop": 3.9, "loop, 2 replicas": 2.0})
    cells = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:]]
    assert cells == [
        ["bare step", "4.00", "1.000"],
        ["loop", "3.90", "0.975"],
        ["loop, 2 replicas", "2.00", "0.500"],
    ]


@pytest.mark.parametrize(("count", "shown"), [(20, [1, 6, 11, 15, 20]), (1, [1]), (3, [1, 2, 3])])
def test_memory_is_told_from_the_first_step_to_the_last(count, shown):
    line = training.memory_line([(step, step << 20) for step in range(1, count + 1)])
    assert [tuple(map(int, found)) for found in re.findall(r"(\d+) at step (\d+)", line)] == [
        (step, step) for step in shown
    ]


@pytest.mark.slow
def test_everything_is_measured(records_dir):
    command = [
        sys.executable, "-m", "benchmarks.training", f"--data_dir={records_dir}",
        "--preset=demo", "--steps=8",
        "--memory_steps=20", "--seconds=0.1", "--rounds=1", "--set=data.crop_size=48",
        "--set=batch_size=4", "--set=pictures=0",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, *rows, start_up, checkpoint, memory = done.stdout.splitlines()
    rates = {row[:20].strip(): float(row.split()[-2]) for row in rows}
    assert list(rates) == ["bare step", *training._LOOPS]
    assert all(rate > 0 for rate in rates.values())
    assert 1 < float(start_up.split()[-2]) < 300
    assert 0 < float(checkpoint.split()[-2]) < 60
    found = re.findall(r"([\d,]+) at step (\d+)", memory)
    assert [int(step) for _, step in found][-1] == 20
    assert all(int(held.replace(",", "")) > 100 for held, _ in found)
