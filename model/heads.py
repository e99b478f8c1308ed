"""The head that most networks end in: a convolution, dropout, and the classifier."""

from __future__ import annotations

from typing import Any

import keras

from model.layers import ChannelDropout, conv_unit

_CLASSIFIER = "_classes"
"""In the names of the layers whose last axis is the classes, and of no other."""


def is_of_classes(path: str) -> bool:
    """Whether the last axis of a variable is the classes, by the path that Keras gives it."""
    return _CLASSIFIER in path.partition("/")[0]


def convolutional_head(
    x: Any, channels: int, num_classes: int, dropout: float, name: str, kernel_size: int = 3
) -> Any:
    """Scores of the classes for each feature: 3x3 convolution, dropout, 1x1 convolution.

    Args:
      x: Keras tensor, [B, H, W, C].
      channels: Of the first convolution.
      num_classes: Number of classes, K.
      dropout: Share of the channels dropped in training.
      name: First part of the layers' names.
      kernel_size: Of the first convolution.

    Returns:
      Keras tensor, float32 [B, H, W, K].
    """
    x = conv_unit(x, channels, kernel_size, name=f"{name}_conv")
    return classifier(x, num_classes, dropout, name)


def classifier(x: Any, num_classes: int, dropout: float, name: str) -> Any:
    """Dropout and a 1x1 convolution: [B, H, W, C] -> float32 [B, H, W, num_classes]."""
    # Whole channels, as in the reference code: neighbouring pixels would give a single one away.
    x = ChannelDropout(dropout, name=f"{name}_dropout")(x)
    return keras.layers.Conv2D(
        num_classes,
        1,
        # Small, so that training starts with all classes about equally likely.
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        # Under mixed precision too, the scores and the loss are float32.
        dtype="float32",
        name=f"{name}{_CLASSIFIER}",
    )(x)
