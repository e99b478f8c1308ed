"""What several networks are built from: convolution, batch normalisation, and resizing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

BATCH_NORM_MOMENTUM = 0.9
"""Weight of the past in the statistics that evaluation uses: they are a few dozen steps old."""


class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` as one operation, whatever the dilation.

    Keras's own rearranges pixels before and after a dilated convolution ("space to batch"), which
    costs up to a tenth of a training step. It is still used where the device cannot differentiate
    the one operation.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves ``inputs`` [B, H, W, C] with ``kernel``; Keras's hook for it."""
        if self.dilation_rate == (1, 1) or not _differentiates_dilation():
            return super().convolution_op(inputs, kernel)
        return tf.nn.conv2d(
            inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate
        )


@functools.cache
def _differentiates_dilation() -> bool:
    """Tries it: a CPU without oneDNN, such as Apple's, has no gradient of a dilated convolution."""
    with tf.init_scope():
        pixel, kernel = tf.zeros([1, 1, 1, 1]), tf.zeros([3, 3, 1, 1])
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=pixel,
                filter_sizes=kernel.shape,
                out_backprop=pixel,
                strides=[1] * 4,
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis and the global batch.

    Keras builds it of a dozen operations that each pass over the features. Where one replica has
    all of the batch, and where the kept statistics are used, TensorFlow has it as one operation.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "synchronized": True})

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises ``inputs`` [B, H, W, C], of which ``mask`` may leave out none."""
        learning = training and self.trainable
        if training and not (learning and tf.distribute.get_strategy().num_replicas_in_sync == 1):
            return super().call(inputs, training=training, mask=mask)
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=tf.zeros([0]) if learning else self.moving_mean.value,
            variance=tf.zeros([0]) if learning else self.moving_variance.value,
            epsilon=self.epsilon,
            is_training=bool(learning),
        )
        if learning:
            # The operation estimates the variance of what the batch is a sample of; kept is, as in
            # Keras and on several replicas, the batch's own.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
            variance = outputs.batch_variance * (count - 1.0) / count
            for kept, new in (
                (self.moving_mean, outputs.batch_mean),
                (self.moving_variance, variance),
            ):
                kept.assign(kept * self.momentum + new * (1.0 - self.momentum))
        return outputs.y


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
    x = Conv2D(
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
    return BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, name=f"{name}_bn")(x)


def conv_unit(x: Any, filters: int, kernel_size: int, *, name: str, rate: int = 1) -> Any:
    """`conv_batch_norm` and a ReLU, called ``<name>_relu``."""
    x = conv_batch_norm(x, filters, kernel_size, name=name, rate=rate)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


class ChannelDropout(keras.layers.SpatialDropout2D):
    """`keras.layers.SpatialDropout2D` that drops the same on any number of replicas.

    Keras draws for each replica by itself, from one seed, so that all drop the same channels.
    Here each draws for the global batch and takes the rows that are its own.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drops whole channels of ``inputs`` [B, H, W, C], in training only."""
        if not training or not self.rate:
            return inputs
        replica = tf.distribute.get_replica_context()
        rows, channels = tf.shape(inputs)[0], inputs.shape[-1]
        draws = tf.random.stateless_uniform(
            [rows * replica.num_replicas_in_sync, 1, 1, channels],
            tf.cast(self.seed_generator.next(), tf.int32),
        )
        own = draws[rows * replica.replica_id_in_sync_group :][:rows]
        return inputs * tf.cast(own >= self.rate, inputs.dtype) / (1.0 - self.rate)


class Upsampling(keras.layers.Layer):
    """Enlarges pictures bilinearly, with half-pixel centres, float32 [B, H, W, C].

    `keras.layers.UpSampling2D` does the same where the sizes are known before the layer runs.

    Args:
      factors: Of the height and of the width.
    """

    def __init__(self, factors: Sequence[int], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.factors = tuple(factors)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Gives float32 [B, H * factor, W * factor, C]."""
        return tf.image.resize(inputs, tf.shape(inputs)[1:3] * tf.constant(self.factors))


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
