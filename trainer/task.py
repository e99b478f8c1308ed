"""Trains a network on a records folder; the same command again goes on where it stopped.

python -m trainer.task --strategy=mirrored --data_dir=RECORDS --model_dir=RUN

On several machines, the same on each, with TF_CONFIG naming them:
python -m trainer.task --strategy=multi_worker --data_dir=RECORDS --model_dir=SHARED_RUN
"""

from __future__ import annotations

import math
import os
import re
import sys

from absl import flags

from pipeline import cli, dataset_info
from pipeline.errors import UserError
from trainer import cluster, config_flags
from trainer import config as config_lib
from trainer.config import Config

flags.adopt_module_key_flags(config_flags)  # --help shows them too.
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that pipeline.preprocess wrote.")
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Folder of the run; a run in it goes on. All workers must see the same one."
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "mirrored",
    ["one", "mirrored", "multi_worker", "tpu"],
    "one: the first device; mirrored: every GPU, or every logical CPU where there is no GPU; "
    "multi_worker: every GPU, or a CPU, of each of the processes that the environment variable "
    "TF_CONFIG names; tpu: every core of --tpu (never tried: we had none).",
)
_TPU = flags.DEFINE_string("tpu", "", "TPU's name or address; empty for the machine's own.")
_START_TIMEOUT = flags.DEFINE_float(
    "start_timeout", 300, "Seconds that a worker waits for the others to start.", lower_bound=1
)
_LOGICAL_CPUS = flags.DEFINE_integer(
    "logical_cpus", 1, "Devices the CPU is split into; each is a replica.", lower_bound=1
)
_DETERMINISTIC = flags.DEFINE_boolean(
    "deterministic", True, "Let the same run on the same devices give the same bits."
)
_INITIAL_MODEL = flags.DEFINE_string(
    "initial_model", None, "Run, or SavedModel of one, to start from; its classes may differ."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples of a step, over all replicas.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of training.")
_EPOCHS = flags.DEFINE_float("epochs", None, "Passes over the training records, for --steps.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Peak of the schedule.")
_PROFILE = flags.DEFINE_string(
    "profile", None, "First and last step, such as 20,25, for TensorFlow's profiler to record."
)
_SEED = flags.DEFINE_integer("seed", None, "Of weights, order, augmentation and dropout.")


def configure(data_dir: str) -> Config:
    """The configuration that the flags describe.

    Raises:
      UserError: Where a value cannot be used.
    """
    config = config_flags.configuration(
        {
            "initial_model": _INITIAL_MODEL.value,
            "seed": _SEED.value,
            "batch_size": _BATCH_SIZE.value,
            "steps": _STEPS.value,
            "optimizer.learning_rate": _LEARNING_RATE.value,
        }
    )
    if _EPOCHS.value is not None and config_flags.is_given("steps", _STEPS.value):
        raise UserError("--steps and --epochs say the same thing twice; give one of them.")
    info = dataset_info.load_info(data_dir)
    examples = info.split(config.train_split).num_records
    info.split(config.validation_split)
    if _EPOCHS.value is None:
        return config
    if not 0 < _EPOCHS.value < math.inf:
        raise UserError(f"--epochs must be positive and finite. Received: {_EPOCHS.value}.")
    steps = math.ceil(_EPOCHS.value * examples / config.batch_size)
    return config_lib.override(config, "steps", steps, "--epochs")


def profiled_steps(text: str, steps: int) -> tuple[int, int]:
    """The first and the last step of --profile.

    Args:
      text: FIRST,LAST.
      steps: Of the run.

    Raises:
      UserError: Where these are not two steps of the run, in order.
    """
    match = re.fullmatch(r"([0-9]+),([0-9]+)", text)
    first, last = (int(number) for number in match.groups()) if match else (0, 0)
    if not 1 <= first <= last <= steps:
        raise UserError(
            f"--profile is FIRST,LAST with 1 <= FIRST <= LAST <= {steps}, the steps of the run. "
            f"Received: {text!r}."
        )
    return first, last


def main(_: list[str]) -> None:
    data_dir, model_dir = cli.require(_DATA_DIR), cli.require(_MODEL_DIR)
    config = configure(data_dir)
    profile = None if _PROFILE.value is None else profiled_steps(_PROFILE.value, config.steps)
    if _STRATEGY.value == "multi_worker":
        cluster.from_environment()
        # A lost worker is told in one sentence; TensorFlow would add its own dozen lines.
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # TensorFlow takes seconds to start; a wrong flag should be told before.
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    from trainer import distribution, saved_model, training
    from trainer.failures import tensorflow_errors
    from trainer.interruption import Interrupted, ended_by_sigterm

    if _DETERMINISTIC.value:
        tf.config.experimental.enable_op_determinism()
    with tensorflow_errors(data_dir), distribution.worker_errors(), ended_by_sigterm():
        strategy = distribution.create_strategy(
            _STRATEGY.value,
            _LOGICAL_CPUS.value,
            tpu=_TPU.value,
            start_timeout=_START_TIMEOUT.value,
        )
        chief = distribution.is_chief(strategy)
        try:
            training.train(config, strategy, data_dir, model_dir, profile)
        except Interrupted as stopped:
            distribution.wait_for_all(strategy)  # else the others would lose one that still saves
            if chief:
                print(stopped, file=sys.stderr)
            sys.exit(stopped.exit_code)
        folder = saved_model.export(model_dir, "best") if chief else None
        distribution.wait_for_all(strategy)
    if chief:
        print(f"Trained. Logs: tensorboard --logdir {model_dir}\nSavedModel: {folder}")


if __name__ == "__main__":
    cli.run(main)
