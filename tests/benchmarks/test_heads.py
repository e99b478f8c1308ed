"""Networks are really trained, evaluated, compared and drawn; what is done is not done again."""

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from benchmarks import heads
from benchmarks.heads import Plan, Run

ROOT = Path(__file__).parents[2]


def test_table_has_the_best_first_with_its_spread():
    plans = {name: Plan(10.0, 100, 2.5, 1_000, 3.21) for name in ("worse", "better")}
    runs = {
        "worse": [Run(10.0, 0.2, 0.5), Run(12.0, 0.4, 0.7)],
        "better": [Run(10.0, 0.5, 0.8)],
    }
    _, better, worse = heads.table(plans, runs).splitlines()
    assert better.split()[0] == "better"
    assert better.split()[-3] == "nan"  # one seed has no spread
    assert worse.split() == [
        "worse",
        "1,000",
        "3.2",
        "2.5",
        "100",
        "11.0",
        "0.300",
        "0.141",
        "0.600",
        "0.200",
        "0.400",
    ]


@pytest.mark.slow
def test_networks_are_compared_and_a_benchmark_goes_on(records_dir, tmp_path):
    command = [sys.executable, "-m", "benchmarks.heads", f"--data_dir={records_dir}"]
    command += [f"--workdir={tmp_path}", "--minutes=0.05", "--seeds=0", "--pictures=2"]
    command += ["--set=data.crop_size=48", "--set=batch_size=2"]
    command += ["--networks=fcn32s_resnet18", "--networks=article_classes"]
    tables = []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        tables.append((tmp_path / "heads.txt").read_text())
    assert tables[0] == tables[1]
    assert {line.split()[0] for line in tables[0].splitlines()[1:]} == {
        "fcn32s_resnet18",
        "article_classes",
    }
    assert cv2.imread(str(tmp_path / "heads.png")).shape[0] > 300
    command[command.index("--minutes=0.05")] = "--minutes=0.06"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Received: --minutes=0.06" in done.stderr
