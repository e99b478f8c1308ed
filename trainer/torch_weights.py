"""Weights of PyTorch networks, by the names of their state dicts.

Two layouts are known: PSPNet's of github.com/hszhao/semseg (``layer0``, ``layer1`` ..., ``ppm``,
``cls``, ``aux``), and torchvision's ResNet (``conv1``, ``bn1``, ``layer1`` ..., ``fc``), which is
the backbone alone; its stem may be the three convolutions that semseg's ImageNet weights have.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError

if TYPE_CHECKING:
    from model.networks import Network
    from trainer.config import ModelConfig

State = Mapping[str, np.ndarray]

_STEMS = {"layer0.0.weight": "semseg", "conv1.weight": "torchvision"}
_TRAINED_WITH: dict[str, dict[str, Any]] = {
    "semseg": {
        "output_stride": 8,
        "first_block_dilation": "after",
        "normalization": "imagenet",
        "align_corners": True,
        "input_upsampling": (1, 1),
    },
    "torchvision": {"normalization": "imagenet", "input_upsampling": (1, 1)},
}
"""What the arrays do not show, but were trained for."""
_HEADS = {"head": "cls", "auxiliary": "aux"}
_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class WeightsError(UserError):
    """A file of weights that cannot be read, or is of another network."""


@dataclasses.dataclass(frozen=True)
class Filled:
    """What came of `fill`; the lists are of names in the state dict.

    Attributes:
      layout: ``semseg`` or ``torchvision``.
      matched: Arrays that were taken.
      missing: The network's weights that the file does not have; they stay as they were.
      left_over: Arrays of the file that the network has no place for.
      misshapen: Arrays of another shape than the network's, as ``name: shape, shape``.
    """

    layout: str
    matched: list[str]
    missing: list[str]
    left_over: list[str]
    misshapen: list[str]


def read(path: str) -> dict[str, np.ndarray]:
    """Reads a PyTorch checkpoint, and nothing else that a pickle may hold.

    Args:
      path: A file of ``torch.save``: a state dict, or a dict with one as ``state_dict``. A
        ``module.`` before all names, as DataParallel leaves it, is dropped.

    Returns:
      The floating-point arrays by name, as float32; counters are left out.

    Raises:
      WeightsError: Where PyTorch is missing or the file is no such checkpoint.
    """
    try:
        import torch
    except ImportError as error:
        raise WeightsError("Reading --weights needs PyTorch: pip install torch") from error
    try:
        # Never without `weights_only`: a pickle can run any code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
        arrays = {
            str(name).removeprefix("module."): tensor.detach().float().numpy()
            for name, tensor in state.items()
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        }
    except OSError:
        raise  # It names the file and what is wrong: missing, a folder, not to be read.
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"--weights {path!r} is damaged, or holds more than tensors, such as a whole model, "
            "which could run any code and is not read; save the model's state_dict()."
        ) from error
    except Exception as error:  # Whatever else bytes that are no checkpoint make PyTorch raise.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(f"--weights {path!r} is no PyTorch checkpoint: {reason}.") from error
    if not arrays:
        raise WeightsError(
            f"--weights {path!r} holds no state dict, neither at its top nor as 'state_dict'."
        )
    return arrays


def fill(network: Network, state: State) -> Filled:
    """Puts a state dict's arrays into a network.

    Args:
      network: Of torchvision's layout only the backbone is filled.
      state: See `read`.

    Raises:
      WeightsError: Where nothing in it belongs to the network, or the number of classes differs.
    """
    layout = next((layout for name, layout in _STEMS.items() if name in state), None)
    if layout is None:
        raise WeightsError(
            "--weights is neither a PSPNet of hszhao/semseg ('layer0.0.weight' is missing) nor a "
            f"ResNet of torchvision ('conv1.weight' is missing); it has {_some(state)}."
        )
    part = network.backbone if layout == "torchvision" else network.model
    variables = _variables(part.layers if part else [], layout)
    ours = {name: _shape(variable) for name, variable in variables.items()}
    theirs = {name: array.shape for name, array in state.items() if not name.startswith("fc.")}
    if "cls.4.bias" in ours and theirs.get("cls.4.bias", ours["cls.4.bias"]) != ours["cls.4.bias"]:
        raise WeightsError(
            f"--weights tells {theirs['cls.4.bias'][0]} classes apart, --data_dir has "
            f"{ours['cls.4.bias'][0]}."
        )
    matched = [name for name in ours if theirs.get(name) == ours[name]]
    if not matched:
        raise WeightsError(
            f"--weights is of another network than the configuration's: it has {_some(theirs)}."
        )
    for name in matched:
        variables[name].assign(_as_keras(state[name]))
    return Filled(
        layout,
        matched,
        missing=[name for name in ours if name not in theirs],
        left_over=[name for name in theirs if name not in ours],
        misshapen=[
            f"{name}: {theirs[name]}, {shape}"
            for name, shape in ours.items()
            if theirs.get(name, shape) != shape
        ],
    )


def trained_otherwise(layout: str, config: ModelConfig) -> list[str]:
    """What the weights were trained with instead, such as ``model.align_corners=True``."""
    return [
        f"model.{name}={value}"
        for name, value in _TRAINED_WITH[layout].items()
        if getattr(config, name) != value
    ]


def _variables(layers: Iterable[Any], layout: str) -> dict[str, Any]:
    """The Keras variables by the names that PyTorch has for them; its own where it has none."""
    bins = next((layer.bins for layer in layers if layer.name == "pyramid_pool"), ())
    return {
        f"{_layer_name(layer.name, layout, bins)}.{_VARIABLES.get(variable.name, variable.name)}": (
            variable
        )
        for layer in layers
        for variable in layer.weights
    }


def _layer_name(name: str, layout: str, bins: tuple[int, ...]) -> str:
    """PyTorch's name of a layer of ours; our own where it has none.

    In a ``Sequential`` the normalisation comes right after its convolution.
    """
    batch_norm = name.endswith("_bn")
    kind = "bn" if batch_norm else "conv"
    stem = name.removesuffix("_bn")
    if match := re.fullmatch(r"stem_conv(\d?)", stem):
        index = int(match[1] or 1)
        return f"layer0.{3 * index - 3 + batch_norm}" if layout == "semseg" else f"{kind}{index}"
    if match := re.fullmatch(r"stage(\d)_block(\d+)_(?:conv(\d)|shortcut)", stem):
        inner = f"{kind}{match[3]}" if match[3] else f"downsample.{batch_norm:d}"
        return f"layer{match[1]}.{int(match[2]) - 1}.{inner}"
    if match := re.fullmatch(r"pyramid(\d+)_conv", stem):
        return f"ppm.features.{bins.index(int(match[1]))}.{1 + batch_norm}"
    if match := re.fullmatch(r"(head|auxiliary)_(conv|classes)", stem):
        return f"{_HEADS[match[1]]}.{4 if match[2] == 'classes' else int(batch_norm)}"
    return name


def _shape(variable: Any) -> tuple[int, ...]:
    """The shape that PyTorch gives a variable: [height, width, in, out] is [out, in, ...] there."""
    shape = tuple(variable.shape)
    return (*shape[:-3:-1], *shape[:-2]) if len(shape) == 4 else shape


def _as_keras(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _some(names: Iterable[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
