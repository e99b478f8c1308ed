"""Measures pipeline.preprocess against other ways from pairs to TFRecords, side by side.

    python -m benchmarks.preprocess --pairs=3000 --pairs=30000

Each contender converts the same folder of pairs (512x256 JPEGs of quality 75, 4:2:0) in processes
of its own, so that start-up and memory are those of the real command:

    decode       decodes the pairs and writes nothing: the floor
    handwritten  a pool of processes without Beam, checks or counts; nearest labels
    tfds         TensorFlow Datasets' builder on Beam's runner; nearest labels
    nearest      pipeline.preprocess --label_recovery=nearest
    robust       pipeline.preprocess --label_recovery=robust

The number behind the name is that of worker processes. Pairs a second count from the command's
start to its end; start-up is the time the same command takes for one pair. Few scenes are drawn,
and each is coded many times, a little brighter or darker, so that no two files are equal.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from benchmarks.drawn_pairs import write_pairs
from benchmarks.process_tree import Usage, measure
from pipeline import cli

YARDSTICK = "handwritten-2"
CONTENDERS = (
    "decode-1",
    "decode-2",
    YARDSTICK,
    "tfds-2",
    "nearest-1",
    "nearest-2",
    "robust-1",
    "robust-2",
)

_PAIRS = flags.DEFINE_multi_integer(
    "pairs", [3000, 30000], "Numbers of pairs to convert.", lower_bound=1
)
_CONTENDERS = flags.DEFINE_multi_enum("contenders", CONTENDERS, CONTENDERS, "Who takes part.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", 1, "Runs of each, by turns; medians are shown.", lower_bound=1
)
_SIZE = flags.DEFINE_integer("size", 256, "Height of a pair and width of each half, in pixels.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for pairs and records, 50 kB a pair; deleted at the end."
)


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=_WORKDIR.value) as folder:
        one = Path(folder, "one")
        write_pairs(one, 1, _SIZE.value)
        print(HEADER)
        start_up = {name: usage.seconds for name, usage in _run_all(one, "1 pair").items()}
        for count in _PAIRS.value:
            pairs = Path(folder, "pairs")
            write_pairs(pairs, count, _SIZE.value)
            usages = _run_all(pairs, f"{count:,} pairs")
            print("\n".join(rows(count, usages, start_up)), flush=True)
            shutil.rmtree(pairs)


def _run_all(pairs: Path, title: str) -> dict[str, Usage]:
    """Runs the contenders by turns; gives the medians of what each took."""
    output = pairs.with_name("output")
    usages: dict[str, list[Usage]] = {name: [] for name in _CONTENDERS.value}
    runs = [name for _ in range(_ROUNDS.value) for name in usages]
    with tqdm(runs, desc=title, disable=None) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            os.sync()  # What others left to be written to the disk is not this one's to wait for.
            usages[name].append(measure(command(name, pairs, output)))
            shutil.rmtree(output, ignore_errors=True)
    return {name: _median(measured) for name, measured in usages.items()}


def _median(usages: Sequence[Usage]) -> Usage:
    return Usage(
        statistics.median(usage.seconds for usage in usages),
        statistics.median(usage.cpu_seconds for usage in usages),
        int(statistics.median(usage.peak_bytes for usage in usages)),
    )


def command(contender: str, pairs: Path, output: Path) -> list[str]:
    """The command line of a contender."""
    kind, workers = contender.split("-")
    modules = {
        "decode": ["benchmarks.decoding", str(pairs), workers],
        "handwritten": ["benchmarks.handwritten", str(pairs), str(output), workers],
        "tfds": ["benchmarks.tfds_builder", str(pairs), str(output), workers],
    }
    ours = [
        "pipeline.preprocess",
        f"--input_dir={pairs}",
        f"--output_dir={output}",
        f"--label_recovery={kind}",
        f"--num_workers={workers}",
    ]
    return [sys.executable, "-m", *modules.get(kind, ours)]


HEADER = (
    f"{'pairs':>7} {'contender':<14}{'pairs/s':>9}{'x handwritten':>15}{'peak MiB':>10}"
    f"{'CPU s':>8}{'start-up s':>12}"
)


def rows(count: int, usages: dict[str, Usage], start_up: dict[str, float]) -> list[str]:
    """The table's lines for one number of pairs."""
    lines = []
    for name, usage in usages.items():
        ratio = usages[YARDSTICK].seconds / usage.seconds if YARDSTICK in usages else float("nan")
        lines.append(
            f"{count:>7,} {name:<14}{count / usage.seconds:>9,.0f}{ratio:>15.2f}"
            f"{usage.peak_bytes / 2**20:>10,.0f}{usage.cpu_seconds:>8,.1f}{start_up[name]:>12.1f}"
        )
    return lines


if __name__ == "__main__":
    cli.run(main)
