"""The table of the inference benchmark says what was measured."""

from benchmarks import inference
from benchmarks.inference import Measured


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
