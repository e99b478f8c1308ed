"""PSPNet's decoder (Zhao et al. 2017): the pyramid pooling module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from model.features import Features
from model.heads import convolutional_head
from model.layers import ResizeLike, conv_unit
from model.pooling import AdaptiveAveragePooling


def pspnet(
    features: Features,
    num_classes: int,
    *,
    align_corners: bool = False,
    bins: Sequence[int] = (1, 2, 3, 6),
    head_channels: int = 512,
    dropout: float = 0.1,
) -> Any:
    """The features of stage 4 beside their averages over the regions of each bin, classified.

    Args:
      features: The backbone's; the paper's has an output stride of 8.
      num_classes: Number of classes, K.
      align_corners: How the averages are resized, see `ResizeLike`.
      bins: Sides of the grids that the pyramid pooling module averages over.
      head_channels: Channels of the 3x3 convolution.
      dropout: Share of its channels dropped in training.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of stage 4.

    Raises:
      ValueError: If an argument is not as said above.

    Reference: Zhao, Shi, Qi, Wang and Jia, "Pyramid Scene Parsing Network", CVPR 2017, section 3;
    where it is silent (channels of the head, dropout), the authors' github.com/hszhao/semseg.
    """
    if head_channels < 1:
        raise ValueError(f"`head_channels` must be 1 or more. Received: {head_channels}")
    pyramid = pyramid_pooling_module(features.stage4, bins, align_corners)
    return convolutional_head(pyramid, head_channels, num_classes, dropout, "head")


def pyramid_pooling_module(x: Any, bins: Sequence[int], align_corners: bool) -> Any:
    """Features beside their averages over the regions of each bin.

    Args:
      x: Keras tensor, [B, H, W, C].
      bins: Sides of the grids that are averaged over. Each is given C / (number of bins) channels,
        rounded down.
      align_corners: How the averages are resized, see `ResizeLike`.

    Returns:
      Keras tensor, [B, H, W, 2 C] where the number of bins divides C.

    Raises:
      ValueError: If a bin is there twice, or there are more bins than channels.
    """
    if len(set(bins)) != len(bins):
        raise ValueError(f"`bins` must differ from each other. Received: {bins}")
    if x.shape[-1] < len(bins):
        raise ValueError(
            f"`bins` must not outnumber the {x.shape[-1]} channels pooled. Received: {bins}"
        )
    branches = [x]
    pooled = AdaptiveAveragePooling(bins, name="pyramid_pool")(x)
    for size, average in zip(bins, pooled, strict=True):
        average = conv_unit(average, x.shape[-1] // len(bins), 1, name=f"pyramid{size}_conv")
        branches.append(ResizeLike(align_corners, name=f"pyramid{size}_resize")([average, x]))
    return keras.layers.Concatenate(name="pyramid_concat")(branches)
