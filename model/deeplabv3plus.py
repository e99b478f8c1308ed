"""DeepLabv3+'s decoder (Chen et al. 2018): DeepLabv3's, refined by the features of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from model.deeplabv3 import atrous_spatial_pyramid
from model.features import Features
from model.heads import classifier
from model.layers import ResizeLike, conv_unit

_LOW_LEVEL_CHANNELS = 48  # Few, or they would outweigh what is known of stage 4; section 4.1.


def deeplabv3plus(
    features: Features,
    num_classes: int,
    *,
    output_stride: int = 16,
    align_corners: bool = False,
    atrous_rates: Sequence[int] = (6, 12, 18),
    head_channels: int = 256,
    dropout: float = 0.1,
) -> Any:
    """Atrous spatial pyramid pooling, resized to stage 1, joined with it, and two 3x3.

    The convolutions are plain ones, as the paper's are on a ResNet; depthwise separable ones are
    its variant for speed, on Xception.

    Args:
      features: The backbone's.
      num_classes: Number of classes, K.
      output_stride: Of the backbone; the paper trains at 16.
      align_corners: How features are resized, see `ResizeLike`.
      atrous_rates: See `model.deeplabv3.atrous_spatial_pyramid`.
      head_channels: Channels of its convolutions and of the two 3x3.
      dropout: Share of the channels dropped in training.

    Returns:
      Scores, Keras tensor float32 [B, h, w, K], of the size of stage 1.

    Raises:
      ValueError: If an argument is not as said above.

    Reference: Chen, Zhu, Papandreou, Schroff and Adam, "Encoder-Decoder with Atrous Separable
    Convolution for Semantic Image Segmentation", ECCV 2018, sections 3.1 and 4.1.
    """
    x = atrous_spatial_pyramid(features.stage4, output_stride, atrous_rates, head_channels)
    x = ResizeLike(align_corners, name="decoder_resize")([x, features.stage1])
    low_level = conv_unit(features.stage1, _LOW_LEVEL_CHANNELS, 1, name="decoder_low_level")
    x = keras.layers.Concatenate(name="decoder_concat")([x, low_level])
    for index in (1, 2):
        x = conv_unit(x, head_channels, 3, name=f"decoder_conv{index}")
    return classifier(x, num_classes, dropout, "head")
