"""Trains networks for the same minutes, and shows how far each had come at which time.

    python -m benchmarks.time_to_accuracy --data_dir=RECORDS --minutes=30

Ours train by the real trainer.task, for as many steps as fit into the minutes by the time that one
takes; segmentation_models_pytorch's PSPNet trains by its package's recipe, see
benchmarks.smp_training, on the same batches. One after the other; evaluations, all by the same
confusion matrix on the same records, take none of the time. Steps are timed alone, so that a run
may take a little longer than asked for: the table says how long it took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks import budget
from pipeline import cli
from trainer import config as config_lib
from trainer import curves

PRESETS = (config_lib.DEFAULT_PRESET, "article")
SMP = "smp PSPNet"

Curve = list[tuple[float, float]]
"""Minutes of training and the validation mIoU, in order."""

# These names are common ones: whoever imports this module may define them anew.
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder that pipeline.preprocess wrote.", allow_override=True
)
_MINUTES = flags.DEFINE_float(
    "minutes", 10.0, "Of training, for each.", lower_bound=0.01, allow_override=True
)
_PRESETS = flags.DEFINE_multi_enum(
    "presets",
    PRESETS,
    list(config_lib.PRESETS),
    "Of ours; the contender has the first's batches.",
    allow_override=True,
)
_SET = flags.DEFINE_multi_string(
    "set", [], "A value of all configurations; repeatable.", allow_override=True
)
_EVALUATIONS = flags.DEFINE_integer(
    "evaluations", 10, "Of each, on the way.", lower_bound=1, allow_override=True
)
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Least time to measure a step.", allow_override=True)
_OUTPUT = flags.DEFINE_string(
    "output", "time_to_accuracy.png", "Picture to write.", allow_override=True
)

_ROOT = Path(__file__).parent.parent
_SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)


def main(_: list[str]) -> None:
    data_dir = cli.require(_DATA_DIR)
    measured: dict[str, Curve] = {}
    presets = list(dict.fromkeys(_PRESETS.value))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for name in tqdm([*presets, SMP], desc="training", disable=None):
            if name != SMP:
                measured[name] = _train_ours(name, data_dir, Path(folder, name))
            elif curve := _train_smp(data_dir, presets[0]):
                measured[name] = curve
    print(table(measured, _MINUTES.value))
    _draw(measured, _OUTPUT.value)
    print(f"Picture: {_OUTPUT.value}")


def _train_ours(preset: str, data_dir: str, folder: Path) -> Curve:
    timing = budget.time_step(preset, _SET.value, _SECONDS.value)
    steps = max(1, round(60 * _MINUTES.value / timing.step))
    changes = [f"evaluate_every={-(-steps // _EVALUATIONS.value)}", *_SET.value]
    flags_ = ["--strategy=one", f"--steps={steps}"]
    budget.train(preset, data_dir, folder, *flags_, changes=changes)
    return training_curve(str(folder), timing.config.batch_size)


def training_curve(model_dir: str, batch_size: int) -> Curve:
    """The validation mIoU of a run over its minutes of training alone.

    Args:
      model_dir: The run's folder.
      batch_size: Of its steps.
    """
    seconds, last = 0.0, 0
    at = {0: 0.0}
    # The rate is logged before each evaluation, and its clock stands still during one.
    for step, _, rate in curves.read(model_dir, "train", "images_per_second"):
        seconds += (step - last) * batch_size / rate
        at[step], last = seconds, step
    points = curves.read(model_dir, "validation", "mean_iou")
    return [(at[point.step] / 60, point.value) for point in points]


def _train_smp(data_dir: str, preset: str) -> Curve | None:
    command = [sys.executable, "-m", "benchmarks.smp_training", data_dir, str(_MINUTES.value)]
    command += [str(_EVALUATIONS.value), preset, *_SET.value]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        tqdm.write(f"{SMP} is left out: {reason}", file=sys.stderr)
        return None
    return [tuple(point) for point in json.loads(done.stdout.strip().rpartition("\n")[2])]


def table(measured: Mapping[str, Curve], minutes: float) -> str:
    """A line for each: its mIoU at several times, interpolated between evaluations, and its best.

    Args:
      measured: Of each by its name.
      minutes: That each was to take.
    """
    heads = "".join(f"{f'{share * minutes:.2g} min':>11}" for share in _SHARES)
    lines = [f"{'mIoU after':<24}{heads}{'best':>8}{'minutes':>9}"]
    for name, curve in measured.items():
        times, ious = np.transpose(curve)
        cells = "".join(f"{np.interp(share * minutes, times, ious):>11.3f}" for share in _SHARES)
        lines.append(f"{name:<24}{cells}{ious.max():>8.3f}{times[-1]:>9.1f}")
    return "\n".join(lines)


def _draw(measured: Mapping[str, Sequence[tuple[float, float]]], path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in measured.items():
        axes.plot(*np.transpose(curve), marker=".", label=name)
    axes.set(xlabel="minutes of training", ylabel="validation mIoU", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    cli.run(main)
