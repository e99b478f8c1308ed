"""Starts a run's backbone from weights that were saved from `keras.applications`."""

from __future__ import annotations

import os
import sys
import warnings

import keras

from model.applications import APPLICATIONS, plain_network
from pipeline.errors import UserError
from trainer.config import ModelConfig
from trainer.run_folder import reason

IMAGENET = "imagenet"
_MOBILENET_V3 = "weights_mobilenet_v3_{size}_224_{{alpha}}_float_no_top_v2.h5"
_RESNET = "{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
_PUBLISHED = {
    "resnet50_v1": ("ResNet50", (1.0,), _RESNET.format(name="resnet50")),
    "resnet101_v1": ("ResNet101", (1.0,), _RESNET.format(name="resnet101")),
    "mobilenetv2": (
        "MobileNetV2",
        (0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5",
    ),
    "mobilenetv3small": ("MobileNetV3Small", (0.75, 1.0), _MOBILENET_V3.format(size="small")),
    "mobilenetv3large": ("MobileNetV3Large", (0.75, 1.0), _MOBILENET_V3.format(size="large")),
}
"""Each backbone's function in `keras.applications`, the widths it has weights for, their file."""

_REFUSALS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError)
"""What Keras and h5py raise for files that they cannot read or that hold something else."""


class BackboneWeightsError(UserError):
    """Weights for a backbone that cannot be used."""


def load(config: ModelConfig, backbone: keras.Model | None) -> None:
    """Sets a backbone's weights to those of the file that the configuration names.

    Prints on stderr how many layers were set, and which of the file have no place in the backbone.

    Args:
      config: Says the backbone, its width, and where its weights lie.
      backbone: See `model.networks.Network`.

    Raises:
      BackboneWeightsError: Where the network has no such backbone, or the file is missing, damaged
        or of another network.
    """
    received = f"Received: model.backbone_weights={config.backbone_weights!r}."
    if backbone is None:
        raise BackboneWeightsError(f"The network {config.name!r} has no backbone. {received}")
    if config.backbone not in APPLICATIONS:
        raise BackboneWeightsError(
            f"The backbone {config.backbone!r} is not of keras.applications; those that are: "
            f"{', '.join(APPLICATIONS)}. Weights that torchvision saved are read by "
            f"`python -m trainer.import_weights`. {received}"
        )
    if config.backbone_weights == IMAGENET:
        path = _imagenet_file(config)
    elif config.backbone_weights.endswith(".h5"):
        path = config.backbone_weights
        if not os.path.isfile(path):
            raise BackboneWeightsError(f"There is no file of that name. {received}")
    else:
        raise BackboneWeightsError(
            f"Backbone weights are {IMAGENET!r} or a .h5 or .weights.h5 file that was saved from "
            f"keras.applications. {received}"
        )
    source = {layer.name: layer for layer in _read(path, config).layers if layer.weights}
    layers = [layer for layer in backbone.layers if layer.weights]
    for layer in layers:
        layer.set_weights(source.pop(layer.name).get_weights())
    left_over = f"; not used: {', '.join(source)}" if source else ""
    print(f"Backbone: {len(layers)} layers' weights read from {path}{left_over}.", file=sys.stderr)


def _imagenet_file(config: ModelConfig) -> str:
    """The file in Keras's cache, if it was fetched."""
    function, widths, file_name = _PUBLISHED[config.backbone]
    alpha = config.width_multiplier
    if alpha not in widths:
        raise BackboneWeightsError(
            f"ImageNet weights of {config.backbone!r} exist for the widths "
            f"{', '.join(map(str, widths))}. Received: model.width_multiplier={alpha}."
        )
    folder = os.path.join(os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras")), "models")
    path = os.path.join(folder, file_name.format(alpha=alpha))
    if not os.path.isfile(path):
        width = f"alpha={alpha}, " if APPLICATIONS[config.backbone].has_alpha else ""
        raise BackboneWeightsError(
            f"ImageNet weights of {config.backbone!r} are not here: {os.path.basename(path)} is "
            f"missing in {folder}. Fetch it: python -c 'import keras; keras.applications."
            f"{function}({width}include_top=False, input_shape=(224, 224, 3))'"
        )
    return path


def _read(path: str, config: ModelConfig) -> keras.Model:
    """The network of `keras.applications` with a file's weights, all of which it must have."""
    whole = plain_network(config.backbone, config.width_multiplier, include_top=True)
    pools = (x for x in whole.layers if isinstance(x, keras.layers.GlobalAveragePooling2D))
    *_, last_pool = pools  # squeeze-and-excite has such layers too
    for network in (whole, keras.Model(whole.input, last_pool.input)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one for each layer it misses, then the error
                network.load_weights(path)
        except _REFUSALS as error:
            refusal = error
        else:
            return network
    function = _PUBLISHED[config.backbone][0]
    why = reason(refusal).partition(". Example")[0]
    raise BackboneWeightsError(
        f"{path!r} does not hold the weights of keras.applications.{function} with "
        f"model.width_multiplier={config.width_multiplier}, or is damaged: {why}."
    ) from refusal
