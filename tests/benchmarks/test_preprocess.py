"""The benchmark of preprocessing: its contenders do equal work, and it measures what it says."""

import re
import sys

import pytest
import tensorflow as tf

from benchmarks import drawn_pairs, process_tree
from benchmarks.drawn_pairs import write_pairs
from pipeline import job


def records_in(folder) -> list[bytes]:
    """Every record below a folder, serialised with its fields sorted; in no order."""
    files = sorted(map(str, folder.rglob("*.tfrecord-*")))
    examples = (tf.train.Example.FromString(d.numpy()) for d in tf.data.TFRecordDataset(files))
    return sorted(example.SerializeToString(deterministic=True) for example in examples)


@pytest.fixture(scope="module")
def expected(pairs_dir, tmp_path_factory) -> list[bytes]:
    """What pipeline.preprocess writes of `pairs_dir` with nearest labels."""
    folder = tmp_path_factory.mktemp("nearest") / "records"
    job.run(job.JobOptions(str(pairs_dir), str(folder), label_recovery="nearest"))
    return records_in(folder)


def test_the_handwritten_script_writes_the_same_records(pairs_dir, expected, run_command, tmp_path):
    done = run_command("benchmarks.handwritten", pairs_dir, tmp_path / "records", 2)
    assert done.returncode == 0, done.stderr
    assert len(expected) == 31
    assert records_in(tmp_path / "records") == expected


@pytest.mark.slow
def test_the_tfds_builder_writes_the_same_records(pairs_dir, expected, run_command, tmp_path):
    done = run_command("benchmarks.tfds_builder", pairs_dir, tmp_path / "records", 1)
    assert done.returncode == 0, done.stderr
    assert records_in(tmp_path / "records") == expected


def test_drawn_pairs_are_all_different(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_pairs, "SCENES", 2)
    write_pairs(tmp_path / "pairs", 11, size=64)
    files = sorted((tmp_path / "pairs" / "train").iterdir())
    assert len(files) == len({file.read_bytes() for file in files}) == 11


@pytest.mark.slow
def test_the_table(run_command, tmp_path):
    contenders = ["decode-1", "handwritten-2", "nearest-1"]
    flags = [f"--contenders={name}" for name in contenders]
    done = run_command(
        "benchmarks.preprocess", "--pairs=2", "--size=64", f"--workdir={tmp_path}",
        *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    columns = ["pairs", "contender", "pairs/s", "x handwritten", "peak MiB", "CPU s", "start-up s"]
    assert re.split(r"\s{2,}|(?<=pairs) ", header.strip()) == columns
    rows = [line.split() for line in lines]
    assert [row[:2] for row in rows] == [["2", name] for name in contenders]
    assert all(float(cell.replace(",", "")) >= 0 for row in rows for cell in row[2:])
    assert [row[3] for row in rows if row[1] == "handwritten-2"] == ["1.00"]
    assert not list(tmp_path.iterdir())


def test_memory_and_time_of_children_count():
    child = "data = bytearray(300 << 20); data[::4096] = data[::4096]; import time; time.sleep(3)"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    usage = process_tree.measure([sys.executable, "-c", parent])
    assert 300 << 20 < usage.peak_bytes < 400 << 20
    assert usage.cpu_seconds > 0
    assert usage.seconds > 3


def test_a_contender_that_fails_is_named_with_its_reason():
    with pytest.raises(RuntimeError, match=r"-c .* ended with 3: no disk"):
        process_tree.measure([sys.executable, "-c", "print('no disk'); raise SystemExit(3)"])
