"""U-Net's decoder (Ronneberger et al. 2015)."""

from __future__ import annotations

from typing import Any

import keras

from model.features import Features
from model.heads import classifier
from model.layers import ResizeLike, conv_unit


def unet(
    features: Features, num_classes: int, *, align_corners: bool = False, dropout: float = 0.1
) -> Any:
    """From stage 4 back to the stem, level by level: resize, concatenate, two 3x3 convolutions.

    A level has as many channels as the features it takes from the backbone, as in the paper.
    Three things differ from it: features are resized bilinearly, not by a learnt 2x2 convolution;
    convolutions keep the size and are batch-normalised; and the last level has the stem's stride
    of 2, as a ResNet has no features of stride 1.

    Args:
      features: The backbone's, of any output stride; where two stages are of one size nothing is
        resized between them.
      num_classes: Number of classes, K.
      align_corners: How features are resized, see `ResizeLike`.
      dropout: Share of the last level's channels dropped in training.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of the stem.

    Reference: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", MICCAI 2015, section 2.
    """
    x = features.stage4
    for name in ("stage3", "stage2", "stage1", "stem"):
        skip = getattr(features, name)
        x = ResizeLike(align_corners, name=f"decoder_{name}_resize")([x, skip])
        x = keras.layers.Concatenate(name=f"decoder_{name}_concat")([skip, x])
        for index in (1, 2):
            x = conv_unit(x, skip.shape[-1], 3, name=f"decoder_{name}_conv{index}")
    return classifier(x, num_classes, dropout, "head")
