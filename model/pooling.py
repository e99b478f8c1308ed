"""Adaptive average pooling: features of any size averaged over b x b regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def averaging_matrix(bins: int, size: int | tf.Tensor, dtype: Any = tf.float32) -> tf.Tensor:
    """The matrix that averages ``size`` positions to ``bins`` regions.

    Region i runs from floor(i * size / bins) to ceil((i + 1) * size / bins), as in PyTorch's
    AdaptiveAvgPool2d: regions may overlap, cover all positions, and are never empty.

    Args:
      bins: Number of regions.
      size: Number of positions, at least 1; a Python int or an int32 scalar tensor.
      dtype: A floating type.

    Returns:
      Tensor of ``dtype``, [bins, size]; each row sums to 1.
    """
    index = tf.range(bins)[:, tf.newaxis]
    start = index * size // bins
    end = ((index + 1) * size + bins - 1) // bins
    position = tf.range(size)[tf.newaxis, :]
    inside = tf.logical_and(start <= position, position < end)
    return tf.cast(inside, dtype) / tf.cast(end - start, dtype)


class AdaptiveAveragePooling(keras.layers.Layer):
    """Averages features over b x b regions for each b of ``bins``, PyTorch's regions.

    Maps [B, H, W, C] to a list of [B, b, b, C] of the same type, in the order of ``bins``. Any
    H and W will do: known or not until the layer runs, larger or smaller than a bin.

    The average over a region is linear along rows and along columns, so it is two matrix products.
    The rows of all bins are averaged in one product, which reads the features only once.

    Args:
      bins: The b's, e.g. (1, 2, 3, 6).

    Raises:
      ValueError: If ``bins`` is empty or has a number below 1.
    """

    def __init__(self, bins: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = tuple(bins)
        if not self.bins or min(self.bins) < 1:
            raise ValueError(f"`bins` must be one or more numbers above 0. Received: {bins}")

    def call(self, inputs: Any) -> list[tf.Tensor]:
        """Pools ``inputs``, [B, H, W, C]."""
        shape = tf.shape(inputs)
        batch, height, width = shape[0], shape[1], shape[2]
        channels = inputs.shape[3]
        rows = [averaging_matrix(b, height, inputs.dtype) for b in self.bins]
        pooled_rows = tf.matmul(
            tf.concat(rows, axis=0), tf.reshape(inputs, [batch, height, width * channels])
        )
        pooled_rows = tf.reshape(pooled_rows, [batch, sum(self.bins), width, channels])
        return [
            tf.matmul(averaging_matrix(b, width, inputs.dtype), of_bin)
            for b, of_bin in zip(
                self.bins, tf.split(pooled_rows, list(self.bins), axis=1), strict=True
            )
        ]
