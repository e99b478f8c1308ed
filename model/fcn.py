"""The decoders of fully convolutional networks (Long et al. 2015): FCN-32s and FCN-8s."""

from __future__ import annotations

from typing import Any

import keras

from model.features import Features
from model.heads import classifier
from model.layers import ResizeLike


def fcn32s(features: Features, num_classes: int, *, dropout: float = 0.1) -> Any:
    """The features of stage 4, classified.

    The paper's two convolutions of 4096 channels before the classifier are VGG's own last layers;
    a ResNet has none between its last stage and its classifier.

    Args:
      features: The backbone's; the paper's has an output stride of 32.
      num_classes: Number of classes, K.
      dropout: Share of the channels dropped in training.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of stage 4.

    Reference: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
    Segmentation", CVPR 2015, section 4.1.
    """
    return classifier(features.stage4, num_classes, dropout, "head")


def fcn8s(
    features: Features, num_classes: int, *, align_corners: bool = False, dropout: float = 0.1
) -> Any:
    """The scores of stages 4, 3 and 2, added: each sum resized to the next finer stage.

    Resizing is bilinear; in the paper it only starts so, and is learnt. The paper trains FCN-32s
    first and adds one stage after the other; here all are trained at once.

    Args:
      features: The backbone's; the paper's has an output stride of 32. At 8 or 16 some stages are
        of one size, and their scores are added as they are.
      num_classes: Number of classes, K.
      align_corners: How scores are resized, see `ResizeLike`.
      dropout: Share of the channels of stage 4 dropped in training.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of stage 2.

    Reference: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
    Segmentation", CVPR 2015, section 4.2 and figure 3.
    """
    scores = fcn32s(features, num_classes, dropout=dropout)
    for name in ("stage3", "stage2"):
        finer = classifier(getattr(features, name), num_classes, 0.0, f"head_{name}")
        scores = ResizeLike(align_corners, name=f"head_{name}_resize")([scores, finer])
        scores = keras.layers.Add(dtype="float32", name=f"head_{name}_add")([scores, finer])
    return scores
