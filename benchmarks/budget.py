"""How much training fits into a time, and a run of it by the real command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process_tree import Usage, measure
from pipeline.errors import UserError
from trainer import config as config_lib
from trainer.config import Config

_ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a network's step was measured to be.

    Attributes:
      config: Of the network.
      step: Seconds of a step of training, on the clock.
      step_cpu: CPU seconds of it, of all cores.
      parameters: That are trained.
      gflops: Of the inference of a picture of the crops' size.
      save: Seconds of writing a checkpoint.
    """

    config: Config
    step: float
    step_cpu: float
    parameters: int
    gflops: float
    save: float

    @property
    def images_per_second(self) -> float:
        """Of the steps alone."""
        return self.config.batch_size / self.step


def time_step(preset: str, changes: Sequence[str] = (), seconds: float = 20.0) -> Timing:
    """Times a preset's step in a process of its own.

    Args:
      preset: Its name.
      changes: Values of the configuration, as ``name=value``.
      seconds: Least time to measure.

    Raises:
      UserError: Where it cannot be timed; with the reason.
    """
    assignments = [config_lib.parse_assignment(text) for text in changes]
    config = config_lib.override_all(config_lib.preset(preset), assignments)
    command = [sys.executable, "-m", "benchmarks.keras_step", preset, str(config.batch_size)]
    command += [str(config.data.crop_size), str(seconds), *changes]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{preset} cannot be timed: {done.stderr.strip().rpartition(chr(10))[2]}")
    said = json.loads(done.stdout.strip().rpartition("\n")[2])
    numbers = {f.name: said[f.name] for f in dataclasses.fields(Timing) if f.name != "config"}
    return Timing(config=config, **numbers)


def train(
    preset: str, data_dir: str, folder: Path, *flags: str, changes: Sequence[str] = ()
) -> Usage:
    """Trains by trainer.task.

    Args:
      preset: Its name.
      data_dir: A records folder.
      folder: Of the run.
      *flags: More of the command's.
      changes: Values of the configuration, as ``name=value``.

    Raises:
      RuntimeError: Where it fails; with the end of what it said.
    """
    command = [sys.executable, "-m", "trainer.task", f"--preset={preset}"]
    command += [f"--data_dir={data_dir}", f"--model_dir={folder}", *flags]
    return measure([*command, *(f"--set={change}" for change in changes)])
