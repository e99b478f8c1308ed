"""Measures the training input against decoding alone, and against usual augmentation code.

    python -m benchmarks.input_fn

Decoding is the floor: whatever else the input costs is the augmentation's. `usual` makes the same
changes as tutorials do, which is what the training input must be worth. All three run by turns in
one process, so that other work on the machine disturbs all alike, and the medians over the rounds
are shown. CPU time is the figure to trust: it is what training on the same processor loses.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping

from absl import flags
from tqdm import tqdm

from benchmarks.drawn_records import write_records
from pipeline import cli
from pipeline.options import Augmentation

_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Records of pipeline.preprocess, of one size. Default: drawn for the run."
)
_SPLIT = flags.DEFINE_string("split", "train", "Split to read.")
_CROP_SIZE = flags.DEFINE_integer("crop_size", 256, "Side of the crops, in pixels.", lower_bound=8)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Examples in a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 40, "Batches a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds that count.", lower_bound=1)

_DRAWN_PAIRS, _DRAWN_SIZE = 320, 256


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        drawn = {"train": _DRAWN_PAIRS}
        print(_compare(_DATA_DIR.value or write_records(folder, drawn, _DRAWN_SIZE)))


def _compare(data_dir: str) -> str:
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from benchmarks.input_contenders import CONTENDERS
    from pipeline.input_fn import RecordReader

    reader = RecordReader(data_dir, _SPLIT.value)
    augmentation = Augmentation(crop_size=_CROP_SIZE.value)
    datasets = {
        name: contender(reader, augmentation, _BATCH_SIZE.value, _BATCHES.value)
        for name, contender in CONTENDERS.items()
    }
    seconds = time_by_turns(datasets, _ROUNDS.value)
    return table(seconds, _BATCHES.value * _BATCH_SIZE.value)


def time_by_turns(
    datasets: Mapping[str, Iterable[object]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Goes through all data sets by turns, once to warm up and then `rounds` times.

    Returns:
      Median seconds on the clock and of this process's CPU time, by name.
    """
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in datasets}
    for number in tqdm(range(rounds + 1), desc="rounds", disable=None):
        for name, dataset in datasets.items():
            clock, cpu = time.perf_counter(), time.process_time()
            for _ in dataset:
                pass
            if number:
                measured[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {
        name: (statistics.median(c for c, _ in times), statistics.median(p for _, p in times))
        for name, times in measured.items()
    }


def table(seconds: dict[str, tuple[float, float]], examples: int) -> str:
    """The result: one line for each contender, the first of which is the floor."""
    floor = next(iter(seconds.values()))[1]
    lines = [f"{'':<10}{'examples/s':>12}{'CPU ms each':>13}{'x decode':>10}"]
    for name, (clock, cpu) in seconds.items():
        row = f"{examples / clock:>12,.0f}{1000 * cpu / examples:>13.2f}{cpu / floor:>10.2f}"
        lines.append(f"{name:<10}{row}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
