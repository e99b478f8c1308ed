"""What a run's folder holds, and how a network is made from it.

config.json          the whole configuration
records_info.json    the description of the records it was trained on
checkpoints/         the latest states of training
best/                the state with the best validation mIoU
export/N/            SavedModels, N = the step
train/, validation/  TensorBoard logs
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from etils import epath

from model import networks
from model.networks import OPTIONS, Network
from pipeline import dataset_info
from pipeline.dataset_info import DatasetInfo
from pipeline.errors import UserError
from trainer import precision
from trainer.config import Config, ConfigError, LossConfig, ModelConfig, differences
from trainer.weight_average import averaged_variables
from trainer.whole_file import write_whole

CONFIG_FILE = "config.json"
CHECKPOINTS = ("best", "latest")
_CHECKPOINT_FOLDERS = {"best": "best", "latest": "checkpoints"}


class RunError(UserError):
    """A run's folder that is missing, incomplete, or of another configuration."""


def require_local(model_dir: str) -> None:
    """Raises a `RunError` where a run is to be written to another file system than a disk's."""
    if "://" in model_dir:
        raise RunError(f"--model_dir must be a local folder. Received: {model_dir!r}.")


def prepare(model_dir: str, config: Config, info: DatasetInfo) -> None:
    """Makes a run's folder, or checks that it belongs to this configuration and these records.

    Raises:
      RunError: Where it belongs to others.
    """
    require_local(model_dir)
    folder = epath.Path(model_dir)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--model_dir {model_dir!r} is a file; name a folder.")
    if not (folder / CONFIG_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / dataset_info.INFO_FILE, info.to_json())
        write_whole(folder / CONFIG_FILE, config.to_json())
        return
    known_config, known_info = load(model_dir)
    changed = differences(known_config, config)
    if changed:
        raise RunError(
            f"{model_dir!r} holds a run of another configuration ({'; '.join(changed)}). Repeat "
            "its flags to go on with it, or name another --model_dir."
        )
    if _content(known_info) != _content(info):
        raise RunError(
            f"{model_dir!r} was trained on other records than those in --data_dir. Name those, or "
            "another --model_dir."
        )


@contextmanager
def held(model_dir: str) -> Iterator[None]:
    """In the block no other process can hold the run; the operating system lets go of it, too.

    Raises:
      RunError: Where another process holds it.
    """
    path = os.path.join(model_dir, CONFIG_FILE)
    # For writing, though nothing is: NFS locks nothing else.
    with open(path, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                raise BlockingIOError("another process prepared the folder at the same time")
        except BlockingIOError as error:
            raise RunError(
                f"Another process trains in {model_dir!r}. Wait for it, or name another "
                "--model_dir."
            ) from error
        yield


def require_run(model_dir: str) -> None:
    """For the workers that are not the chief, after it has prepared the folder.

    Raises:
      RunError: Where they do not see what it wrote.
    """
    if not (epath.Path(model_dir) / CONFIG_FILE).exists():
        raise RunError(
            "--model_dir must be a folder that all workers see, and what the first of them wrote "
            f"is not there. Received: {model_dir!r}."
        )


def _content(info: DatasetInfo) -> DatasetInfo:
    palette = dataclasses.replace(info.palette, name="")
    return dataclasses.replace(info, palette=palette, provenance={})


def load(model_dir: str) -> tuple[Config, DatasetInfo]:
    """The configuration and the records' description of a run.

    Raises:
      RunError: Where the folder is no run's.
    """
    folder = epath.Path(model_dir)
    texts = []
    for name in (CONFIG_FILE, dataset_info.INFO_FILE):
        if not (folder / name).exists():
            raise RunError(f"--model_dir {model_dir!r} holds no run: {name} is missing.")
        texts.append((folder / name).read_text())
    source = str(folder / CONFIG_FILE)
    return Config.from_json(texts[0], source), DatasetInfo.from_json(texts[1])


def build_network(config: Config, info: DatasetInfo, *, to_train: bool = False) -> Network:
    """Builds the network of a configuration for records, randomly initialised from its seed.

    Args:
      config: The configuration.
      info: Of the records.
      to_train: Whether it computes in the configuration's precision. Networks that are evaluated
        and exported compute in float32, which every machine does well.

    Raises:
      ConfigError: Where the network does not take a value.
    """
    return build_network_for(
        config if to_train else dataclasses.replace(config, precision="float32"),
        num_classes=info.palette.num_classes,
        class_colors=info.palette.class_colors,
        mean=info.mean,
        std=info.std,
        class_weights=info.class_weights(config.loss.class_weights, config.train_split),
    )


def build_network_for(
    config: Config, *, class_weights: Sequence[float] | None = None, **data: Any
) -> Network:
    """The same, with what `networks.build` and the loss ask about the data said one by one."""
    keras.utils.set_random_seed(config.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision.policy(config.precision))
    try:
        return _build(config, class_weights, data)
    finally:
        keras.config.set_dtype_policy(before)


def _build(
    config: Config, class_weights: Sequence[float] | None, data: Mapping[str, Any]
) -> Network:
    values = dataclasses.asdict(config.model)
    name = values.pop("name")
    del values["backbone_weights"]  # read once, by `training`; later they are in the checkpoints
    known = name in OPTIONS  # if not, `build` says which names there are
    options = OPTIONS[name] if known else frozenset()
    for key, value in values.items():
        if known and key not in options and value != getattr(ModelConfig(), key):
            raise ConfigError(f"model.{key}={value!r} has no effect on the network {name!r}.")
    loss = dataclasses.asdict(config.loss)
    for key, value in loss.items():
        if name == "article" and value != getattr(LossConfig(), key):
            raise ConfigError(f"loss.{key}={value!r} has no effect on the network {name!r}.")
    # Kept in the configuration is the scheme, the loss wants the numbers.
    loss["class_weights"] = class_weights if loss["class_weights"] != "none" else None
    try:
        return networks.build(
            name,
            **data,
            loss=loss,
            **{key: value for key, value in values.items() if key in options},
        )
    except ValueError as error:
        raise ConfigError(f"The model cannot be built: {error}") from error


def checkpoint_folder(model_dir: str, kind: str) -> str:
    """Where the ``best`` or ``latest`` checkpoints of a run lie."""
    return os.path.join(model_dir, _CHECKPOINT_FOLDERS[kind])


def last_checkpoint(model_dir: str, kind: str) -> str | None:
    """The last ``best`` or ``latest`` checkpoint of a run; None before the first.

    Raises:
      RunError: Where the list of them is damaged; TensorFlow would take it for none.
    """
    folder = checkpoint_folder(model_dir, kind)
    listing = os.path.join(folder, "checkpoint")
    with damage_as_run_error(listing):
        state = tf.train.get_checkpoint_state(folder)
        if state is None and tf.io.gfile.exists(listing):
            raise ValueError("it is no list of checkpoints.")
    return state.model_checkpoint_path if state else None


def restore_model(network: keras.Model, model_dir: str, kind: str) -> int:
    """Loads a checkpoint's weights into a network: their average, where the run keeps one.

    Args:
      network: Of the run's configuration.
      model_dir: The run's folder.
      kind: ``best`` or ``latest``.

    Returns:
      The step of the checkpoint.

    Raises:
      RunError: Where there is none, or it is damaged.
    """
    path = last_checkpoint(model_dir, kind)
    if path is None:
        raise RunError(f"{model_dir!r} holds no {kind} checkpoint yet; train it with trainer.task.")
    step = tf.Variable(0, dtype=tf.int64)
    with damage_as_run_error(path):
        averaged = any(name.startswith("average/") for name, _ in tf.train.list_variables(path))
        values = (
            {"average": averaged_variables(network)}
            if averaged
            else {"model": model_state(network)}
        )
        checkpoint = tf.train.Checkpoint(step=step, **values)
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    return int(step)


def model_state(network: keras.Model) -> list[tf.Variable]:
    """All that a network carries from step to step: weights, statistics, dropout's random state.

    Keras leaves the last out of what it saves, without which a resumed run differs.
    """
    return [variable.value for variable in network.variables]


@contextmanager
def damage_as_run_error(path: str) -> Iterator[None]:
    """Turns TensorFlow's many ways to refuse a checkpoint into a `RunError` that names it."""
    try:
        yield
    except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
        raise RunError(
            f"The checkpoint {path!r} is damaged or of another network: {reason(error)}."
        ) from error


def reason(error: Exception) -> str:
    """Why TensorFlow could not read or write a file, in a few words."""
    text = str(error).strip().partition("\n")[0]
    full = os.strerror(errno.ENOSPC)
    return full if full in text else text.rstrip(".")
