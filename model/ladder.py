"""PSPNet's pyramid pooling with a ladder back to finer features, for small machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from model.features import Features
from model.heads import classifier
from model.layers import ResizeLike, conv_unit
from model.pspnet import pyramid_pooling_module


def ladder(
    features: Features,
    num_classes: int,
    *,
    align_corners: bool = False,
    bins: Sequence[int] = (1, 2, 3, 6),
    head_channels: int = 64,
    dropout: float = 0.1,
) -> Any:
    """Pools stage 3 as PSPNet pools stage 4, and climbs to stage 1: resize, add, 3x3 convolution.

    The pooled averages stand in for the sight of stage 4, which is not computed: where a picture
    has 256 pixels its features are 8x8, and took a quarter of a training step. A backbone with an
    output stride of 16 or more is read without dilation.

    Args:
      features: The backbone's.
      num_classes: Number of classes, K.
      align_corners: How features are resized, see `ResizeLike`.
      bins: See `model.pspnet.pyramid_pooling_module`.
      head_channels: Channels of the ladder.
      dropout: Share of them dropped in training, before the classifier.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of stage 1.

    Raises:
      ValueError: If an argument is not as said above.

    Reference: Orsic, Kreso, Bevandic and Segvic, "In Defense of Pre-trained ImageNet Architectures
    for Real-time Semantic Segmentation of Road-driving Images", CVPR 2019, section 3, whose
    SwiftNet has pyramid pooling and such a ladder on all four stages; Zhao et al. 2017.
    """
    if head_channels < 1:
        raise ValueError(f"`head_channels` must be 1 or more. Received: {head_channels}")
    x = pyramid_pooling_module(features.stage3, bins, align_corners)
    x = conv_unit(x, head_channels, 1, name="ladder_top")
    for name in ("stage2", "stage1"):
        finer = getattr(features, name)
        x = ResizeLike(align_corners, name=f"ladder_{name}_resize")([x, finer])
        lateral = conv_unit(finer, head_channels, 1, name=f"ladder_{name}_lateral")
        x = keras.layers.Add(name=f"ladder_{name}_add")([x, lateral])
        x = conv_unit(x, head_channels, 3, name=f"ladder_{name}_conv")
    return classifier(x, num_classes, dropout, "head")
