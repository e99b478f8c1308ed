"""The backbones by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from model.applications import application
from model.features import Features
from model.resnet import resnet

IMAGENET_MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * value for value in (0.229, 0.224, 0.225))
"""Of red, green and blue, 0 to 255, as torchvision and hszhao/semseg have them."""


def _resnet(
    pixels: Any,
    depth: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    normalization: str,
    **options: Any,
) -> Features:
    """`resnet` of pixels that are normalised by the mean and deviation of the data or ImageNet."""
    if normalization not in ("data", "imagenet"):
        raise ValueError(
            f"`normalization` must be 'data' or 'imagenet'. Received: {normalization!r}"
        )
    if normalization == "imagenet":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    inputs = keras.layers.Rescaling(
        scale=[1 / float(s) for s in std],
        offset=[-float(m) / float(s) for m, s in zip(mean, std, strict=True)],
        dtype="float32",
        name="normalize",
    )(pixels)
    return resnet(inputs, depth, **options)


def _application(
    pixels: Any,
    name: str,
    *,
    mean: Any,
    std: Any,
    normalization: str,
    first_block_dilation: str,
    **options: Any,
) -> Features:
    """`application`, which normalises and dilates in its own way."""
    del mean, std
    for option, value, only in (
        ("normalization", normalization, "data"),
        ("first_block_dilation", first_block_dilation, "before"),
    ):
        if value != only:
            raise ValueError(
                f"`{option}` must be {only!r} for the backbone {name!r}. Received: {value!r}"
            )
    return application(pixels, name, **options)


BACKBONES: dict[str, Callable[..., Features]] = {
    "resnet18": functools.partial(_resnet, depth=18),
    "resnet34": functools.partial(_resnet, depth=34),
    "resnet50": functools.partial(_resnet, depth=50),
    "resnet101": functools.partial(_resnet, depth=101),
    "resnet50_v1": functools.partial(_application, name="resnet50_v1"),
    "resnet101_v1": functools.partial(_application, name="resnet101_v1"),
    "mobilenetv2": functools.partial(_application, name="mobilenetv2"),
    "mobilenetv3small": functools.partial(_application, name="mobilenetv3small"),
    "mobilenetv3large": functools.partial(_application, name="mobilenetv3large"),
}
"""Functions of pixels, which they normalise, and of the other arguments of `build`."""

OUTPUT_STRIDES = (8, 16, 32)


def build(
    name: str,
    pixels: Any,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    output_stride: int = 8,
    width_multiplier: float = 1.0,
    deep_stem: bool = False,
    first_block_dilation: str = "before",
    normalization: str = "data",
) -> Features:
    """Builds a backbone.

    Args:
      name: One of `BACKBONES`.
      pixels: Keras input of RGB in 0 to 255, float32 [B, H, W, 3]; H and W may be None.
      mean: Mean of the red, green and blue of the training pixels, 0 to 255. Backbones of
        `keras.applications` normalise as they were trained, and do not read it.
      std: Their standard deviation, in the same units and for the same backbones.
      output_stride: Pixels a feature of the last stage stands for, 8, 16 or 32.
      width_multiplier: Factor of all channel counts; of `keras.applications`, only the MobileNets
        take one other than 1.
      deep_stem: Three 3x3 convolutions in place of a ResNet's 7x7.
      first_block_dilation: See `resnet`.
      normalization: Whose mean and deviation bring the pixels to 0 and 1: ``data`` for `mean` and
        `std`; ``imagenet`` for ImageNet's, which torchvision's and hszhao/semseg's weights were
        trained with. Backbones of `keras.applications` take neither this nor the one before.

    Returns:
      The features of each stage.

    Raises:
      ValueError: If an argument is not as said above, or not one that the backbone takes.
    """
    if name not in BACKBONES:
        raise ValueError(f"`backbone` must be one of {sorted(BACKBONES)}. Received: {name!r}")
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(
            f"`output_stride` must be one of {OUTPUT_STRIDES}. Received: {output_stride}"
        )
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            "`mean` and `std` must have three numbers each, those of `std` above 0. "
            f"Received: mean={mean}, std={std}"
        )
    return BACKBONES[name](
        pixels,
        mean=mean,
        std=std,
        output_stride=output_stride,
        width_multiplier=width_multiplier,
        deep_stem=deep_stem,
        first_block_dilation=first_block_dilation,
        normalization=normalization,
    )
