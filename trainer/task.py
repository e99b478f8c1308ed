"""Trains a network on a records folder; the same command again goes on where it stopped.

python -m trainer.task --strategy=mirrored --data_dir=RECORDS --model_dir=RUN
"""

from __future__ import annotations

import math
from typing import Any

from absl import flags

from pipeline import cli, dataset_info
from pipeline.errors import UserError
from trainer import config as config_lib
from trainer.config import Config

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
_PRESET = flags.DEFINE_enum(
    "preset", "pspnet_resnet18", list(config_lib.PRESETS), "Configuration to start from."
)
_CONFIG = flags.DEFINE_string("config", None, "config.json of a run to start from instead.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples of a step, over all replicas.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of training.")
_EPOCHS = flags.DEFINE_float("epochs", None, "Passes over the training records, for --steps.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Peak of the schedule.")
_SEED = flags.DEFINE_integer("seed", None, "Of weights, order, augmentation and dropout.")
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other value of the configuration, such as --set model.dropout=0.2; repeatable."
)


def configure(data_dir: str) -> Config:
    """The configuration that the flags describe.

    Raises:
      UserError: Where a value cannot be used.
    """
    if _CONFIG.value and _PRESET.present:
        raise UserError("--config and --preset both say where to start from; give one of them.")
    config = _read_config(_CONFIG.value) if _CONFIG.value else config_lib.preset(_PRESET.value)
    changes: list[tuple[str, Any]] = [
        ("seed", _SEED.value),
        ("batch_size", _BATCH_SIZE.value),
        ("steps", _STEPS.value),
        ("optimizer.learning_rate", _LEARNING_RATE.value),
    ]
    for name, value in changes:
        if value is not None:
            config = config_lib.override(config, name, value, f"--{name.rpartition('.')[2]}")
    assignments = [config_lib.parse_assignment(text) for text in _SET.value]
    config = config_lib.override_all(config, assignments)
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


def _read_config(path: str) -> Config:
    try:
        with open(path, encoding="utf-8") as file:
            return Config.from_json(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path!r} cannot be read: {error}.") from error


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
