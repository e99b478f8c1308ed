"""What was learnt when: ours and the contender really train, and time is that of training alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import tensorflow as tf

from benchmarks import time_to_accuracy

ROOT = Path(__file__).parents[2]


def test_the_table_interpolates_between_evaluations():
    curve = [(0.0, 0.0), (5.0, 0.4), (11.0, 0.3)]
    _, line = time_to_accuracy.table({"ours": curve}, 10.0).splitlines()
    assert line.split() == ["ours", "0.080", "0.200", "0.400", "0.358", "0.317", "0.400", "11.0"]


def test_minutes_are_those_of_training_by_the_logged_rates(tmp_path):
    # Steps of 8 images: 10 of them at 4 images/s, 5 at 2, and 5 at 4 again: 20, 20 and 10 seconds.
    logged = {
        "train": [("images_per_second", {10: 4.0, 15: 2.0, 20: 4.0})],
        "validation": [("mean_iou", {0: 0.0, 15: 0.25, 20: 0.5})],
    }
    for part, scalars in logged.items():
        with tf.summary.create_file_writer(str(tmp_path / part)).as_default():
            for tag, values in scalars:
                for step, value in values.items():
                    tf.summary.scalar(tag, value, step=step)
    curve = time_to_accuracy.training_curve(str(tmp_path), batch_size=8)
    assert curve == [(0, 0), (pytest.approx(40 / 60), 0.25), (pytest.approx(50 / 60), 0.5)]


@pytest.mark.slow
def test_networks_are_compared_over_time(records_dir, tmp_path):
    command = [
        sys.executable, "-m", "benchmarks.time_to_accuracy", f"--data_dir={records_dir}",
        "--minutes=0.05",
        "--presets=demo", "--evaluations=2", "--seconds=0.1", "--set=data.crop_size=48",
        "--set=batch_size=4", f"--output={tmp_path / 'curves.png'}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, *rows, _ = done.stdout.splitlines()
    assert header.split()[:4] == ["mIoU", "after", "0.005", "min"]
    names = [row[:24].strip() for row in rows]
    assert names[0] == "demo"
    # The contender takes part where it is installed; else that is told.
    packages = ("torch", "segmentation_models_pytorch")
    installed = all(importlib.util.find_spec(name) for name in packages)
    assert names[1:] == [time_to_accuracy.SMP] * installed
    assert ("smp PSPNet is left out: " in done.stderr) != installed
    for row in rows:
        cells = [float(cell) for cell in row[24:].split()]
        assert len(cells) == 7 and all(0 <= cell <= 1 for cell in cells[:6])
    assert cv2.imread(str(tmp_path / "curves.png")).shape[0] > 300
