"""Measures what training takes beside its steps: the loop, replicas, start-up, checkpoints, memory.

    python -m benchmarks.training

    bare step          the step of benchmarks.keras_step, on a batch that is there already
    loop               trainer.task, with input and logs, without evaluations and checkpoints
    deterministic      the same with TensorFlow's deterministic operations, which is the default
    2 replicas         the loop on two logical CPUs, which share the cores that one replica had
    start-up           from the command to the end of the first step, the validation before it
                       included, which is short with few validation pictures
    checkpoint         writing one, for which training waits
    memory             of all processes, at several steps of a run of its own

By turns, each in a process of its own; figures are medians over the rounds. Start-up and memory
are of trainer.task as well.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from benchmarks import budget
from benchmarks.drawn_records import write_records
from pipeline import cli
from trainer import config as config_lib
from trainer import curves

# These names are common ones: whoever imports this module may define them anew.
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Records of pipeline.preprocess. Default: drawn for the run.",
    allow_override=True,
)
_PRESET = flags.DEFINE_enum(
    "preset", "pspnet_resnet18", list(config_lib.PRESETS), "What trains.", allow_override=True
)
_MEMORY_PRESET = flags.DEFINE_enum(
    "memory_preset",
    "demo",
    list(config_lib.PRESETS),
    "What trains while memory is watched.",
    allow_override=True,
)
_SET = flags.DEFINE_multi_string(
    "set", [], "A value of all configurations; repeatable.", allow_override=True
)
_STEPS = flags.DEFINE_integer(
    "steps", 40, "Steps of each loop.", lower_bound=4, allow_override=True
)
_MEMORY_STEPS = flags.DEFINE_integer(
    "memory_steps",
    2000,
    "Steps while memory is watched; 0 to leave that out.",
    lower_bound=0,
    allow_override=True,
)
_SECONDS = flags.DEFINE_float(
    "seconds", 20.0, "Least time to measure the bare step in a round.", allow_override=True
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds by turns.", lower_bound=1, allow_override=True)

_DRAWN = {"train": 128, "val": 8}
_DRAWN_SIZE = 256
_LOOPS = {
    "loop": ["--strategy=one", "--nodeterministic"],
    "loop, deterministic": ["--strategy=one", "--deterministic"],
    "loop, 2 replicas": ["--strategy=mirrored", "--logical_cpus=2", "--nodeterministic"],
}


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        data_dir = _DATA_DIR.value or write_records(folder, _DRAWN, _DRAWN_SIZE)
        rates: dict[str, list[float]] = {name: [] for name in ("bare step", *_LOOPS)}
        start_ups, saves = [], []
        for number in tqdm(range(_ROUNDS.value), desc="rounds", disable=None):
            root = Path(folder, f"round-{number}")
            timing = budget.time_step(_PRESET.value, _SET.value, _SECONDS.value)
            rates["bare step"].append(timing.images_per_second)
            saves.append(timing.save)
            for name, loop in _LOOPS.items():
                rates[name].append(_images_per_second(data_dir, root / name, loop))
            start_ups.append(_start_up(data_dir, root / "start-up"))
        print(table({name: statistics.median(values) for name, values in rates.items()}))
        print(f"Start-up to the end of the first step: {statistics.median(start_ups):.1f} s.")
        print(f"Writing a checkpoint: {statistics.median(saves):.2f} s.")
        if _MEMORY_STEPS.value:
            print(memory_line(_memory(data_dir, Path(folder, "memory"))))


def _images_per_second(data_dir: str, folder: Path, loop: Sequence[str]) -> float:
    """The median of the logged rates, without the first, in which the step is compiled."""
    steps = _STEPS.value
    changes = [f"evaluate_every={steps}", f"log_every={max(1, steps // 8)}", *_SET.value]
    budget.train(_PRESET.value, data_dir, folder, f"--steps={steps}", *loop, changes=changes)
    points = curves.read(str(folder), "train", "images_per_second")
    return statistics.median(point.value for point in points[1:])


def _start_up(data_dir: str, folder: Path) -> float:
    """Seconds from the command to the end of its first step."""
    started = time.time()
    flags_, changes = ["--strategy=one", "--steps=1"], ["log_every=1", *_SET.value]
    budget.train(_PRESET.value, data_dir, folder, *flags_, changes=changes)
    return curves.read(str(folder), "train", "loss")[0].wall_time - started


def _memory(data_dir: str, folder: Path) -> list[tuple[int, int]]:
    """Steps of a run and the bytes that it held at each."""
    steps = _MEMORY_STEPS.value
    # Evaluations as well, each of which might leave something.
    changes = [f"evaluate_every={max(1, steps // 10)}", f"log_every={max(1, steps // 20)}"]
    changes += _SET.value
    loop = ["--strategy=one", f"--steps={steps}"]
    usage = budget.train(_MEMORY_PRESET.value, data_dir, folder, *loop, changes=changes)
    points = curves.read(str(folder), "train", "loss")
    return [
        (point.step, min(usage.memory, key=lambda sample: abs(sample[0] - point.wall_time))[1])
        for point in points
    ]


def table(rates: Mapping[str, float]) -> str:
    """A line for each; the first is what the others are compared with."""
    first = next(iter(rates.values()))
    lines = [f"{'':<20}{'images/s':>10}{'x bare step':>13}"]
    return "\n".join(
        [*lines, *(f"{name:<20}{rate:>10.2f}{rate / first:>13.3f}" for name, rate in rates.items())]
    )


def memory_line(held: Sequence[tuple[int, int]]) -> str:
    """Memory at about five of the steps, the first and the last among them."""
    shown = sorted({round(i * (len(held) - 1) / 4) for i in range(5)})
    cells = (f"{held[i][1] / 2**20:,.0f} at step {held[i][0]:,}" for i in shown)
    return f"Memory in MiB: {', '.join(cells)}."


if __name__ == "__main__":
    cli.run(main)
