"""PSPNet (Zhao et al. 2017): dilated ResNet, pyramid pooling module, two heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from model.layers import ResizeLike, conv_batch_norm
from model.pooling import AdaptiveAveragePooling
from model.resnet import resnet


def _conv_unit(x: Any, filters: int, kernel_size: int, name: str) -> Any:
    x = conv_batch_norm(x, filters, kernel_size, name=name)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _pyramid_pooling(features: Any, bins: Sequence[int]) -> Any:
    """The features beside their averages over the regions of each bin, [B, H, W, about 2C]."""
    pooled = AdaptiveAveragePooling(bins, name="pyramid_pool")(features)
    branches = [features]
    for size, x in zip(bins, pooled, strict=True):
        x = _conv_unit(x, features.shape[-1] // len(bins), 1, f"pyramid{size}_conv")
        branches.append(ResizeLike(name=f"pyramid{size}_resize")([x, features]))
    return keras.layers.Concatenate(name="pyramid_concat")(branches)


def _head(x: Any, pixels: Any, channels: int, num_classes: int, dropout: float, name: str) -> Any:
    """Class scores for each of ``pixels``, [B, H, W, num_classes] float32."""
    x = _conv_unit(x, channels, 3, f"{name}_conv")
    # Whole channels, as in the reference code: neighbouring pixels would give a single one away.
    x = keras.layers.SpatialDropout2D(dropout, name=f"{name}_dropout")(x)
    x = keras.layers.Conv2D(
        num_classes,
        1,
        # Small, so that training starts with all classes about equally likely.
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        # Under mixed precision too, the scores and the loss are float32.
        dtype="float32",
        name=f"{name}_classes",
    )(x)
    return ResizeLike(name=f"{name}_resize")([x, pixels])


def _check(num_classes: int, bins: Sequence[int], head_channels: int, dropout: float) -> None:
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be 1 or more. Received: {num_classes}")
    if len(set(bins)) != len(bins):
        raise ValueError(f"`bins` must differ from each other. Received: {bins}")
    if head_channels < 2:
        raise ValueError(f"`head_channels` must be 2 or more. Received: {head_channels}")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and below 1. Received: {dropout}")


def _normalize(pixels: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            "`mean` and `std` must have three numbers each, those of `std` above 0. "
            f"Received: mean={mean}, std={std}"
        )
    return keras.layers.Rescaling(
        scale=[1 / float(s) for s in std],
        offset=[-float(m) / float(s) for m, s in zip(mean, std, strict=True)],
        dtype="float32",
        name="normalize",
    )(pixels)


def pspnet(
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    depth: int = 18,
    output_stride: int = 8,
    width_multiplier: float = 1.0,
    bins: Sequence[int] = (1, 2, 3, 6),
    head_channels: int = 512,
    auxiliary_head: bool = True,
    dropout: float = 0.1,
) -> keras.Model:
    """Builds PSPNet, for pixels of any size.

    The auxiliary head sits on stage 3, has half the channels, and only helps training. A model
    without it shares the weights: ``keras.Model(model.input, {"logits": model.output["logits"]})``.

    Args:
      num_classes: Number of classes, K.
      mean: Mean of the red, green and blue of the training pixels, 0 to 255.
      std: Their standard deviation, in the same units.
      depth: Depth of the ResNet: 18, 34, 50 or 101.
      output_stride: Pixels a feature stands for, 8, 16 or 32; the paper's is 8.
      width_multiplier: Factor of the ResNet's channel counts.
      bins: Sides of the grids that the pyramid pooling module averages over. Each is given
        (channels of stage 4) / (number of bins) channels, rounded down.
      head_channels: Channels of the head's 3x3 convolution.
      auxiliary_head: Whether there is an auxiliary head.
      dropout: Share of the heads' channels dropped in training.

    Returns:
      A model from RGB pixels in 0 to 255, uint8 or float32 [B, H, W, 3], to a dict of ``logits``
      and, with an auxiliary head, ``auxiliary_logits``, each float32 [B, H, W, K].

    Raises:
      ValueError: If an argument is not as said above.

    Example:
      >>> model = pspnet(19, mean=(73.2, 82.9, 72.4), std=(47.7, 48.5, 47.7))
      >>> model(tf.zeros([1, 250, 333, 3]))["logits"].shape
      TensorShape([1, 250, 333, 19])

    Reference: Zhao, Shi, Qi, Wang and Jia, "Pyramid Scene Parsing Network", CVPR 2017, section 3;
    where it is silent (channels of the heads, dropout), the authors' github.com/hszhao/semseg. The
    ResNet's stem is that of He et al., not the authors' three 3x3 convolutions, and features are
    resized with half-pixel centres, so that sizes need not be 8n + 1.
    """
    _check(num_classes, bins, head_channels, dropout)
    pixels = keras.Input([None, None, 3], dtype="float32", name="pixels")
    stage3, stage4 = resnet(
        _normalize(pixels, mean, std), depth, output_stride, width_multiplier=width_multiplier
    )
    if stage4.shape[-1] < len(bins):
        raise ValueError(
            f"`bins` must not outnumber the {stage4.shape[-1]} channels of stage 4. "
            f"Received: {bins}"
        )
    x = _pyramid_pooling(stage4, bins)
    outputs = {"logits": _head(x, pixels, head_channels, num_classes, dropout, "head")}
    if auxiliary_head:
        outputs["auxiliary_logits"] = _head(
            stage3, pixels, head_channels // 2, num_classes, dropout, "auxiliary"
        )
    return keras.Model(pixels, outputs, name="pspnet")
