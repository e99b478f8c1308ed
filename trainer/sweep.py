"""Trains one run after the other with other values, and ranks them; the same command goes on.

python -m trainer.sweep --data_dir=RECORDS --sweep_dir=SWEEP --preset=demo
  --grid=optimizer.learning_rate=1e-3,3e-3 --grid=loss.class_weights=none,sqrt

python -m trainer.sweep --data_dir=RECORDS --sweep_dir=SWEEP --random=20
  --range=optimizer.learning_rate=1e-4:1e-2:log --grid=loss.class_weights=none,sqrt
"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from pipeline import cli, dataset_info
from pipeline.errors import UserError
from trainer import config_flags, search, trials
from trainer.search import Values

flags.adopt_module_key_flags(config_flags)  # --help shows them too.
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that pipeline.preprocess wrote.")
_SWEEP_DIR = flags.DEFINE_string("sweep_dir", None, "Folder of the runs; a sweep in it goes on.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of training of each run.")
_GRID = flags.DEFINE_multi_string(
    "grid", [], "A value of --set and what to try for it, name=value,value; repeatable."
)
_RANGE = flags.DEFINE_multi_string(
    "range", [], "For --random: numbers to draw from, name=low:high or name=low:high:log."
)
_RANDOM = flags.DEFINE_integer(
    "random", None, "Runs with drawn values, in place of every combination.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the draws; that of the runs is --set=seed=1.")
_STRATEGY = flags.DEFINE_enum("strategy", "mirrored", ["one", "mirrored"], "As of trainer.task.")
_LOGICAL_CPUS = flags.DEFINE_integer("logical_cpus", 1, "As of trainer.task.", lower_bound=1)


def values() -> list[Values]:
    """The values of each run that the flags describe.

    Raises:
      UserError: Where they describe none.
    """
    choices = _by_name([search.parse_choices(text) for text in _GRID.value])
    ranges = _by_name([search.parse_range(text) for text in _RANGE.value])
    if _RANGE.value and _RANDOM.value is None:
        raise UserError("--range needs --random, which says how many values are drawn from it.")
    if not choices and not ranges:
        raise UserError("There is nothing to try; say what with --grid, or --range and --random.")
    for name in choices.keys() & ranges.keys():
        raise UserError(f"--grid and --range both say what to try for {name!r}.")
    if _RANDOM.value is None:
        return search.grid(choices)
    return search.draw(choices, ranges, _RANDOM.value, _SEED.value)


def _by_name(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"What to try for {name!r} is said twice.")
        found[name] = value
    return found


def main(_: list[str]) -> None:
    data_dir, sweep_dir = cli.require(_DATA_DIR), cli.require(_SWEEP_DIR)
    config = config_flags.configuration({"steps": _STEPS.value})
    sweep = trials.Sweep(sweep_dir, data_dir, config, values())
    info = dataset_info.load_info(data_dir)
    for split in (config.train_split, config.validation_split):
        info.split(split)
    sweep.prepare()
    try:
        sweep.run(f"--strategy={_STRATEGY.value}", f"--logical_cpus={_LOGICAL_CPUS.value}")
    except trials.SweepInterrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    print(f"Logs: tensorboard --logdir {sweep_dir}")


if __name__ == "__main__":
    cli.run(main)
