"""The summary command, as a user types it; `tests/model/test_summary` has its figures."""

import pytest

from pipeline import dataset_info


def test_summary(run_command, records_dir):
    result = run_command(
        "trainer.summary", "--preset=demo", "--set=model.output_stride=16", "--size=96x64",
        f"--data_dir={records_dir}",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["part", "layer", "kind", "output", "parameters", "GMAC"]
    classes = dataset_info.load_info(str(records_dir)).palette.num_classes
    (head,) = (line.split() for line in lines if " head_classes " in line)
    assert head[3:5] == [f"4x6x{classes}", f"{65 * classes:,}"]
    assert "Output stride: 16" in lines
    assert any(line.startswith("Inference, a picture 96 wide and 64 high: ") for line in lines)


@pytest.mark.parametrize(
    ("flags", "code", "parts"),
    [
        (["--size=256"], 1, ["--size", "WIDTHxHEIGHT", "'256'"]),
        (["--size=0x64"], 1, ["--size", "'0x64'"]),
        (["--num_classes=0"], 2, ["--num_classes=0"]),
        (["--num_classes=3", "--data_dir=nowhere"], 1, ["--data_dir and --num_classes"]),
    ],
)
def test_a_slip_is_a_sentence(run_command, flags, code, parts):
    result = run_command("trainer.summary", *flags)
    assert (result.returncode, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
