"""What several networks are built from: convolution with batch normalisation, and resizing."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

BATCH_NORM_MOMENTUM = 0.9
"""Weight of the past in the statistics that evaluation uses: they are a few dozen steps old."""


def conv_batch_norm(
    x: Any, filters: int, kernel_size: int, *, name: str, stride: int = 1, rate: int = 1
) -> Any:
    """A convolution without bias, then batch normalisation, as in He et al. 2016.

    The statistics are those of the global batch: they are summed over all replicas.

    Args:
      x: Keras tensor, [B, H, W, C].
      filters: Number of output channels.
      kernel_size: Odd side of the kernel.
      name: Name of the convolution; the normalisation is called ``<name>_bn``.
      stride: Step of the kernel; above 1 it excludes a ``rate`` above 1.
      rate: Dilation of the kernel.

    Returns:
      Keras tensor, [B, ceil(H / stride), ceil(W / stride), filters].
    """
    if stride > 1:
        # "same" pads a strided convolution by 0 or 1 before, depending on the size. Padding both
        # sides alike centres output i on input i * stride, which lets dilation replace stride.
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        dilation_rate=rate,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        # One initializer a layer: sharing it would give kernels of one shape the same values.
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, mode="fan_out", distribution="untruncated_normal"
        ),
        name=name,
    )(x)
    return keras.layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, synchronized=True, name=f"{name}_bn"
    )(x)


def conv_unit(x: Any, filters: int, kernel_size: int, *, name: str, rate: int = 1) -> Any:
    """`conv_batch_norm` and a ReLU, called ``<name>_relu``."""
    x = conv_batch_norm(x, filters, kernel_size, name=name, rate=rate)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


class ResizeLike(keras.layers.Layer):
    """Resizes features bilinearly to the height and width of others.

    Takes ``[features, reference]``, both [B, H, W, C] with sizes and channels of their own, and
    returns float32 [B, H of reference, W of reference, C of features]. The sizes may be unknown
    until the layer runs.

    Args:
      align_corners: Where the features lie. False: each in the middle of the pixels it stands for
        (half-pixel centres), as in `tf.image.resize`. True: the first and the last on the corner
        pixels, as in PyTorch's ``interpolate(align_corners=True)``. So they lie indeed in a network
        that pads both sides alike, as ours do, for H and W of (output stride) x n + 1.
    """

    def __init__(self, align_corners: bool = False, **kwargs: Any) -> None:
        # Not autocast: only the reference's shape is read, and the result is float32 anyway.
        super().__init__(autocast=False, **kwargs)
        self.align_corners = align_corners

    def call(self, inputs: Any) -> tf.Tensor:
        """Resizes ``inputs[0]`` to the height and width of ``inputs[1]``."""
        features, reference = inputs
        # The operation behind `tf.image.resize`, which no longer lets one choose.
        return tf.raw_ops.ResizeBilinear(
            images=features,
            size=tf.shape(reference)[1:3],
            align_corners=self.align_corners,
            half_pixel_centers=not self.align_corners,
        )
