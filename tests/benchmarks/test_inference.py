"""The table of the inference benchmark says what was measured."""

import collections
import importlib.util
import subprocess

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


def test_litert_files_are_of_the_saved_model_as_it_is_now(tmp_path, monkeypatch):
    """Nothing is converted here; what lies beside the SavedModel is not looked at."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "done", "")

    saved_model, folder = tmp_path / "export" / "7", tmp_path / "new"
    (saved_model / "assets").mkdir(parents=True)
    (saved_model / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "export" / "7-int8.tflite").write_bytes(b"of an earlier export")
    folder.mkdir()
    monkeypatch.setattr(inference.subprocess, "run", run)
    names = ["torch", "saved_model", "litert_int8", "litert_none"]
    copy = inference.converted(names, f"{saved_model}/", "records", str(folder))
    assert copy == str(folder / "7")
    assert (folder / "7" / "saved_model.pb").read_bytes() == b"graph"
    assert [path.name for path in folder.iterdir()] == ["7"]
    told = [[word for word in command if word.startswith("--")] for command in commands]
    assert told == [
        [f"--saved_model={copy}", "--format=litert", f"--quantize={name}", "--data_dir=records"]
        for name in ("int8", "none")
    ]


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
    theirs = Ladder(
        19, 32, model.head_channels, model.bins, model.align_corners, model.input_upsampling
    )
    assert sizes(theirs.parameters()) == sizes(ours.model.trainable_variables)


def sizes(parameters):
    """How many there are of each shape, whatever the order of its axes."""
    return collections.Counter(tuple(sorted(p.shape)) for p in parameters)
