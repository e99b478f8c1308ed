"""Measures ways to predict with one trained network: time, size and mIoU of each.

    python -m benchmarks.inference --model_dir=RUN --saved_model=RUN/export/N --data_dir=RECORDS

Each contender runs in a process of its own, by turns with the others, on the same random pixels:

    saved_model       the SavedModel's scores
    litert_none       LiteRT, float32
    litert_dynamic    LiteRT, 8-bit weights
    litert_int8       LiteRT, 8 bits, in ranges from the records
    keras_predict     `keras.Model.predict`
    torch             the same network in PyTorch, channels_last, with random weights

Times are medians of a call and then of the rounds. The mIoU is of the validation split's first
photos. LiteRT files are converted anew, beside a copy of the SavedModel: an older one could be of
another export. What cannot run here is named and left out; `pip install torch==2.13.0` brings
PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from benchmarks.predictor import BATCH_SIZES
from pipeline import cli

CONTENDERS = (
    "saved_model", "litert_none", "litert_dynamic", "litert_int8", "keras_predict", "torch",
)  # fmt: skip

# These names are common ones: whoever imports this module may define them anew.
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run.", allow_override=True)
_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Its SavedModel.", allow_override=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder that pipeline.preprocess wrote.", allow_override=True
)
_CONTENDERS = flags.DEFINE_multi_enum(
    "contenders", CONTENDERS, CONTENDERS, "Who takes part.", allow_override=True
)
_SIZE = flags.DEFINE_integer(
    "size", 256, "Height and width of the images.", lower_bound=32, allow_override=True
)
_SECONDS = flags.DEFINE_float(
    "seconds", 5.0, "Least time to measure a batch size in a round.", allow_override=True
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds by turns.", lower_bound=1, allow_override=True)
_PHOTOS = flags.DEFINE_integer(
    "photos", 500, "Validation photos to score.", lower_bound=0, allow_override=True
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a contender's process reported.

    Attributes:
      calls: Seconds of a call with each of `BATCH_SIZES`.
      num_bytes: Size of what it is loaded from; None of what is no file for serving.
      mean_iou: On the photos; None where it has no trained weights, or was not asked.
    """

    calls: list[float]
    num_bytes: int | None
    mean_iou: float | None


def main(_: list[str]) -> None:
    sources = [cli.require(flag) for flag in (_MODEL_DIR, _SAVED_MODEL, _DATA_DIR)]
    names = list(dict.fromkeys(_CONTENDERS.value))
    with tempfile.TemporaryDirectory() as folder:
        sources[1] = converted(names, sources[1], sources[2], folder)
        measured = _measure_all(names, sources)
    print(table({name: _median(results) for name, results in measured.items() if results}))


def _measure_all(names: Sequence[str], sources: Sequence[str]) -> dict[str, list[Measured]]:
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    for round_number in range(_ROUNDS.value):
        for name in tqdm(names, desc=f"round {round_number + 1}", disable=None):
            photos = 0 if round_number else _PHOTOS.value  # which give the same each time
            if (result := _measure(name, sources, photos)) is not None:
                measured[name].append(result)
    return measured


def converted(names: Sequence[str], saved_model: str, data_dir: str, folder: str) -> str:
    """Copies a SavedModel to a folder, and writes the contenders' LiteRT files beside the copy.

    Args:
      names: The contenders.
      saved_model: The SavedModel.
      data_dir: A records folder of its classes.
      folder: A new one.

    Returns:
      The copy.
    """
    copy = os.path.join(folder, os.path.basename(os.path.normpath(saved_model)))
    shutil.copytree(saved_model, copy)
    for name in names:
        quantize = name.removeprefix("litert_")
        if quantize == name:
            continue
        command = [sys.executable, "-m", "trainer.export", f"--saved_model={copy}"]
        command += ["--format=litert", f"--quantize={quantize}", f"--data_dir={data_dir}"]
        done = subprocess.run(command, cwd=_root(), capture_output=True, text=True)
        tqdm.write((done.stderr or done.stdout).strip(), file=sys.stderr)
    return copy


def _root() -> Path:
    return Path(__file__).parent.parent


def _measure(name: str, sources: Sequence[str], photos: int) -> Measured | None:
    numbers = map(str, (_SIZE.value, _SECONDS.value, photos))
    command = [sys.executable, "-m", "benchmarks.predictor", name, *sources, *numbers]
    done = subprocess.run(command, cwd=_root(), capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        tqdm.write(f"{name} is left out: {reason}", file=sys.stderr)
        return None
    return Measured(**json.loads(done.stdout.strip().rpartition("\n")[2]))


def _median(results: Sequence[Measured]) -> Measured:
    calls = zip(*(result.calls for result in results), strict=True)
    return dataclasses.replace(results[0], calls=[statistics.median(call) for call in calls])


def table(measured: dict[str, Measured]) -> str:
    """One line for each contender; ratios are of the SavedModel's time at the largest batch."""
    heads = "".join(f"{f'ms x{b}':>9}{f'img/s x{b}':>11}" for b in BATCH_SIZES)
    lines = [f"{'contender':<16}{heads}{'x SavedModel':>14}{'MB':>8}{'mIoU':>8}"]
    reference = measured.get("saved_model")
    for name, result in measured.items():
        cells = ""
        for batch_size, seconds in zip(BATCH_SIZES, result.calls, strict=True):
            cells += f"{1000 * seconds / batch_size:>9.1f}{batch_size / seconds:>11.1f}"
        ratio = f"{result.calls[-1] / reference.calls[-1]:.2f}" if reference else "-"
        size = f"{result.num_bytes / 1e6:.2f}" if result.num_bytes else "-"
        mean_iou = "-" if result.mean_iou is None else f"{result.mean_iou:.4f}"
        lines.append(f"{name:<16}{cells}{ratio:>14}{size:>8}{mean_iou:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
