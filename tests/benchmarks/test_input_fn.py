"""The benchmark of the training input: its contenders do equal work, and it prints a table."""

import numpy as np
import pytest

from benchmarks.input_contenders import CONTENDERS
from pipeline.input_fn import RecordReader
from pipeline.options import Augmentation


def test_contenders_read_the_same_examples_and_give_the_same_kind_of_batch(records_dir):
    reader = RecordReader(str(records_dir), "train")
    batches = {
        name: list(contender(reader, Augmentation(crop_size=32), 5, 6).as_numpy_iterator())
        for name, contender in CONTENDERS.items()
    }
    order = [list(np.concatenate([batch["key"] for batch in b])) for b in batches.values()]
    assert order[0] == order[1] == order[2]
    for ours, usual in zip(batches["ours"], batches["usual"], strict=True):
        for name in ("image", "label"):
            assert ours[name].shape == usual[name].shape
            assert ours[name].dtype == usual[name].dtype
        assert set(np.unique(usual["label"])) <= {*range(19), 255}
        assert 0 <= usual["image"].min() < 60 < 190 < usual["image"].max() <= 255


@pytest.mark.slow
def test_the_table(records_dir, run_command):
    done = run_command(
        "benchmarks.input_fn", f"--data_dir={records_dir}", "--crop_size=32", "--batch_size=4",
        "--batches=2", "--rounds=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["examples/s", "CPU", "ms", "each", "x", "decode"]
    rows = {
        name: [float(n.replace(",", "")) for n in numbers]
        for name, *numbers in map(str.split, lines)
    }
    assert list(rows) == list(CONTENDERS)
    assert rows["decode"][2] == 1
    assert all(number > 0 for numbers in rows.values() for number in numbers)
