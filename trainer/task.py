"""Trains a network on a records folder; the same command again goes on where it stopped.

python -m trainer.task --strategy=mirrored --data_dir=RECORDS --model_dir=RUN
"""

from __future__ import annotations

import math

from absl import flags

from pipeline import cli, dataset_info
from pipeline.errors import UserError
from trainer import config as config_lib
from trainer import config_flags
from trainer.config import Config

flags.adopt_module_key_flags(config_flags)  # --help shows them too.
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that pipeline.preprocess wrote.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run; a run in it goes on.")
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "mirrored",
    ["one", "mirrored"],
    "one: the first device; mirrored: every GPU, or every logical CPU where there is no GPU.",
)
_LOGICAL_CPUS = flags.DEFINE_integer(
    "logical_cpus", 1, "Devices the CPU is split into; each is a replica.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples of a step, over all replicas.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of training.")
_EPOCHS = flags.DEFINE_float("epochs", None, "Passes over the training records, for --steps.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Peak of the schedule.")
_SEED = flags.DEFINE_integer("seed", None, "Of weights, order, augmentation and dropout.")


def configure(data_dir: str) -> Config:
    """The configuration that the flags describe.

    Raises:
      UserError: Where a value cannot be used.
    """
    config = config_flags.configuration(
        {
            "seed": _SEED.value,
            "batch_size": _BATCH_SIZE.value,
            "steps": _STEPS.value,
            "optimizer.learning_rate": _LEARNING_RATE.value,
        }
    )
    if _STEPS.value is not None and _EPOCHS.value is not None:
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


def main(_: list[str]) -> None:
    data_dir, model_dir = cli.require(_DATA_DIR), cli.require(_MODEL_DIR)
    config = configure(data_dir)
    # TensorFlow takes seconds to start; a wrong flag should be told before.
    from trainer.startup import start_tensorflow

    start_tensorflow()
    from trainer import distribution, saved_model, training
    from trainer.failures import tensorflow_errors

    with tensorflow_errors(data_dir):
        strategy = distribution.create_strategy(_STRATEGY.value, _LOGICAL_CPUS.value)
        training.train(config, strategy, data_dir, model_dir)
        folder = saved_model.export(model_dir, "best")
    print(f"Trained. Logs: tensorboard --logdir {model_dir}\nSavedModel: {folder}")


if __name__ == "__main__":
    cli.run(main)
