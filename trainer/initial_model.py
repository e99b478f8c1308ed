"""Starts a run from the weights of another run, whose classes may be others (fine-tuning)."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np

from model.heads import is_of_classes
from model.networks import Network
from pipeline import dataset_info
from pipeline.errors import UserError
from trainer import run_folder, saved_model
from trainer.config import Config

_NOT_IN_SHAPES = (
    "output_stride", "first_block_dilation", "normalization", "align_corners", "atrous_rates",
    "input_upsampling",
)  # fmt: skip
"""Of the configuration of a network: what its weights were trained for and do not show."""


class InitialModelError(UserError):
    """A run or a SavedModel that a run cannot start from."""


@dataclasses.dataclass(frozen=True)
class InitialModel:
    """What a run starts from.

    Attributes:
      folder: Where it was read.
      config: It was trained with.
      class_names: By train id.
      weights: Weights and statistics, float arrays by the paths that Keras gives them.
    """

    folder: str
    config: Config
    class_names: Sequence[str]
    weights: Mapping[str, np.ndarray]


def read(folder: str) -> InitialModel:
    """Reads the weights of a run's best checkpoint, averaged where it keeps an average.

    Args:
      folder: A run's, or one of its SavedModels, ``RUN/export/N``; that has no auxiliary head.

    Raises:
      InitialModelError: Where it is neither of them, or damaged.
    """
    try:
        if os.path.exists(os.path.join(folder, saved_model.GRAPH_FILE)):
            config, palette, weights = saved_model.read(folder)
            return InitialModel(folder, config, palette.class_names, weights)
        files = (run_folder.CONFIG_FILE, dataset_info.INFO_FILE)
        if all(os.path.exists(os.path.join(folder, name)) for name in files):
            config, info = run_folder.load(folder)
            model = run_folder.build_network(config, info).model
            run_folder.restore_model(model, folder, "best")
            weights = {path: variable.numpy() for path, variable in _variables(model).items()}
            return InitialModel(folder, config, info.palette.class_names, weights)
    except UserError as error:
        raise InitialModelError(f"--initial_model {folder!r} cannot be used: {error}") from error
    raise InitialModelError(
        f"--initial_model {folder!r} is neither a run's folder, with {' and '.join(files)}, nor a "
        "SavedModel of trainer.export, such as RUN/export/3000."
    )


def fill(
    network: Network, config: Config, class_names: Sequence[str], initial: InitialModel
) -> None:
    """Sets a network's weights to those of the same path and shape, and tells which it has not.

    Of a classifier each class's weights are those of the class of the same name; those of classes
    that the initial model does not know stay as they are. Pixels are normalised by the mean and
    deviation of the new records, or as the configuration says, not by those of the old.

    Prints on stderr how many variables were set, and a line for each kind of what was not.

    Args:
      network: Randomly initialised.
      config: It was built of.
      class_names: Its classes, by train id.
      initial: See `read`.

    Raises:
      InitialModelError: Where no convolution before the classifiers fits, or a frozen layer does
        not; the network is left as it was.
    """
    variables = _variables(network.model)
    fitting = _fitting(variables, class_names, initial)
    _check(network, initial, fitting)
    for path, value in fitting.items():
        variables[path].assign(value)
    known = [path for path in variables if path in initial.weights]
    new_classes = [name for name in class_names if name not in initial.class_names]
    old_classes = [name for name in initial.class_names if name not in class_names]
    print(
        f"Initial model: {len(fitting)} of {len(variables)} variables set from {initial.folder}.",
        file=sys.stderr,
    )
    for what, names in (
        ("layers stay random, as the initial model lacks them", _layers(variables, known)),
        ("layers of the initial model have no place here", _layers(initial.weights, known)),
        (
            "variables have another shape in the initial model, and stay random",
            [path for path in known if path not in fitting],
        ),
        ("classes are new, and stay random in the classifiers", new_classes),
        ("classes of the initial model are not in the records' palette", old_classes),
        ("values were others when the initial model was trained", _otherwise(initial, config)),
    ):
        if names:
            print(f"{len(names)} {what}: {', '.join(names)}", file=sys.stderr)


def _fitting(
    variables: Mapping[str, keras.Variable], class_names: Sequence[str], initial: InitialModel
) -> dict[str, np.ndarray]:
    """The values by path of the variables that the initial model has in the same shape."""
    shared = [name for name in class_names if name in initial.class_names]
    rows = [class_names.index(name) for name in shared]
    their_rows = [initial.class_names.index(name) for name in shared]
    fitting = {}
    for path in variables.keys() & initial.weights.keys():
        ours, theirs = variables[path].numpy(), initial.weights[path]
        if not is_of_classes(path):
            if theirs.shape == ours.shape:
                fitting[path] = theirs
        elif theirs.shape == (*ours.shape[:-1], len(initial.class_names)):
            fitting[path] = ours.copy()
            fitting[path][..., rows] = theirs[..., their_rows]
    return fitting


def _check(network: Network, initial: InitialModel, fitting: Mapping[str, np.ndarray]) -> None:
    # A bias of the classifiers or a scale may fit by chance.
    if not any(value.ndim == 4 and not is_of_classes(path) for path, value in fitting.items()):
        raise InitialModelError(
            f"--initial_model {initial.folder!r} is of another network than the configuration's, "
            f"{network.model.name!r}: no convolution has the same name and shape in both."
        )
    frozen = [
        layer.name
        for layer in network.model.layers
        if not layer.trainable and any(v.path not in fitting for v in layer.variables)
    ]
    if frozen:
        raise InitialModelError(
            f"model.freeze_batch_norm=True keeps {len(frozen)} layers' statistics that "
            f"--initial_model {initial.folder!r} does not have: {', '.join(frozen)}."
        )


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Weights and statistics by path; not the random state of dropout, which is the run's own."""
    return {v.path: v for v in model.variables if v.dtype.startswith("float")}


def _layers(paths: Iterable[str], known: Sequence[str]) -> list[str]:
    """The layers of those paths that are not known, each once, in their order."""
    return list(dict.fromkeys(path.rpartition("/")[0] for path in paths if path not in known))


def _otherwise(initial: InitialModel, config: Config) -> list[str]:
    """Such as ``model.align_corners=True``."""
    return [
        f"model.{name}={getattr(initial.config.model, name)}"
        for name in _NOT_IN_SHAPES
        if getattr(initial.config.model, name) != getattr(config.model, name)
    ]
