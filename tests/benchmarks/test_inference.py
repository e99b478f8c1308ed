"""The table of the inference benchmark says what was measured."""

import collections
import importlib.util

import pytest

from benchmarks import inference
from benchmarks.inference import Measured
from trainer import config as config_lib


def test_table_compares_with_the_saved_model():
    measured = {
        "saved_model": Measured([0.1, 0.4], 4_000_000, 0.5),
        "litert_int8": Measured([0.05, 0.2], 1_000_000, 0.495),
        "torch": Measured([0.2, 0.8], None, None),
    }
    head, first, second, third = inference.table(measured).splitlines()
    assert head.split()[:3] == ["contender", "ms", "x1"]
    assert first.split() == ["saved_model", "100.0", "10.0", "50.0", "20.0", "1.00", "4.00",
                             "0.5000"]  # fmt: skip
    assert second.split()[5:] == ["0.50", "1.00", "0.4950"]
    assert third.split()[5:] == ["2.00", "-", "-"]


def test_without_a_saved_model_there_are_no_ratios():
    (_, line) = inference.table({"torch": Measured([0.2, 0.8], None, None)}).splitlines()
    assert line.split()[5] == "-"


@pytest.mark.torch
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is missing: tests/torch/requirements.txt could not be installed",
)
def test_small_restated_in_pytorch_has_the_same_parameters():
    from benchmarks.torch_ladder import Ladder
    from trainer import run_folder

    config = config_lib.preset("small")
    ours = run_folder.build_network_for(
        config, num_classes=19, class_colors=[(0, 0, 0)] * 19, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    model = config.model
    theirs = Ladder(19, 48, model.head_channels, model.bins, model.align_corners)
    assert sizes(theirs.parameters()) == sizes(ours.model.trainable_variables)


def sizes(parameters):
    """How many there are of each shape, whatever the order of its axes."""
    return collections.Counter(tuple(sorted(p.shape)) for p in parameters)
