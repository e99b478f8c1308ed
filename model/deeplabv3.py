"""DeepLabv3's decoder (Chen et al. 2017): atrous spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from model.features import Features
from model.heads import classifier
from model.layers import ResizeLike, conv_unit


def atrous_spatial_pyramid(
    x: Any, output_stride: int, atrous_rates: Sequence[int], channels: int
) -> Any:
    """A 1x1 convolution, a dilated 3x3 for each rate and the picture's average, made one by a 1x1.

    Args:
      x: Keras tensor, [B, H, W, C].
      output_stride: Pixels that a feature of ``x`` stands for.
      atrous_rates: Dilations at an output stride of 16, so steps of 16 pixels. At another stride
        they are scaled to the same number of pixels, at least 1; the paper doubles them at 8.
      channels: Of each convolution.

    Returns:
      Keras tensor, [B, H, W, channels].

    Raises:
      ValueError: If ``atrous_rates`` or ``channels`` is not as said above.
    """
    if not atrous_rates or min(atrous_rates) < 1:
        raise ValueError(
            f"`atrous_rates` must be one or more numbers above 0. Received: {atrous_rates}"
        )
    if channels < 1:
        raise ValueError(f"`head_channels` must be 1 or more. Received: {channels}")
    branches = [conv_unit(x, channels, 1, name="aspp_conv")]
    for index, rate in enumerate(atrous_rates, start=1):
        rate = max(1, rate * 16 // output_stride)
        branches.append(conv_unit(x, channels, 3, rate=rate, name=f"aspp_atrous{index}"))
    average = keras.layers.GlobalAveragePooling2D(keepdims=True, name="aspp_pool")(x)
    average = conv_unit(average, channels, 1, name="aspp_pool_conv")
    branches.append(ResizeLike(name="aspp_pool_resize")([average, x]))
    x = keras.layers.Concatenate(name="aspp_concat")(branches)
    return conv_unit(x, channels, 1, name="aspp_project")


def deeplabv3(
    features: Features,
    num_classes: int,
    *,
    output_stride: int = 16,
    atrous_rates: Sequence[int] = (6, 12, 18),
    head_channels: int = 256,
    dropout: float = 0.1,
) -> Any:
    """The features of stage 4 through atrous spatial pyramid pooling, classified.

    Args:
      features: The backbone's.
      num_classes: Number of classes, K.
      output_stride: Of the backbone; the paper trains at 16 or 8.
      atrous_rates: See `atrous_spatial_pyramid`.
      head_channels: Channels of each of its convolutions.
      dropout: Share of the channels dropped in training.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of stage 4.

    Raises:
      ValueError: If an argument is not as said above.

    Reference: Chen, Papandreou, Schroff and Adam, "Rethinking Atrous Convolution for Semantic
    Image Segmentation", arXiv:1706.05587, section 3.3. The paper names no dropout.
    """
    x = atrous_spatial_pyramid(features.stage4, output_stride, atrous_rates, head_channels)
    return classifier(x, num_classes, dropout, "head")
