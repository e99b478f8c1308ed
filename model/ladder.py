"""PSPNet's pyramid pooling with a ladder back to finer features, for small machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from model.features import Features
from model.heads import classifier
from model.layers import ResizeLike, conv_unit
from model.pspnet import pyramid_pooling_module

DETAIL_CHANNELS = 16
"""Of what corrects the scores."""


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

    The scores of stage 1, four pixels apart, cannot show what is thinner. A few channels of the
    stem, two pixels apart, correct them, at first by little.

    Args:
      features: The backbone's.
      num_classes: Number of classes, K.
      align_corners: How features are resized, see `ResizeLike`.
      bins: See `model.pspnet.pyramid_pooling_module`.
      head_channels: Channels of the ladder.
      dropout: Share of them dropped in training, before the classifier.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of the stem.

    Raises:
      ValueError: If an argument is not as said above.

    Reference: Orsic, Kreso, Bevandic and Segvic, "In Defense of Pre-trained ImageNet Architectures
    for Real-time Semantic Segmentation of Road-driving Images", CVPR 2019, section 3, whose
    SwiftNet has pyramid pooling and such a ladder on all four stages; Zhao et al. 2017; Ghiasi and
    Fowlkes, "Laplacian Pyramid Reconstruction and Refinement for Semantic Segmentation", ECCV 2016,
    for scores that finer features correct.
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
    scores = classifier(x, num_classes, dropout, "head")
    scores = ResizeLike(align_corners, name="head_classes_resize")([scores, features.stem])
    correction = _correction(x, features.stem, num_classes, align_corners)
    return keras.layers.Add(dtype="float32", name="head_add")([scores, correction])


def _correction(x: Any, stem: Any, num_classes: int, align_corners: bool) -> Any:
    """What the stem, knowing of `x`, adds to the scores: float32 [B, h, w, num_classes]."""
    coarse = conv_unit(x, DETAIL_CHANNELS, 1, name="detail_coarse")
    coarse = ResizeLike(align_corners, name="detail_resize")([coarse, stem])
    fine = conv_unit(stem, DETAIL_CHANNELS, 3, name="detail_fine")
    x = keras.layers.Add(name="detail_add")([fine, coarse])
    x = conv_unit(x, DETAIL_CHANNELS, 3, name="detail_conv")
    return classifier(x, num_classes, 0.0, "detail")
