"""ResNet features at a chosen output stride (He et al. 2016), in torchvision's layout."""

from __future__ import annotations

from typing import Any

import keras

from model.features import Features
from model.layers import conv_batch_norm


def _relu(x: Any, name: str) -> Any:
    return keras.layers.ReLU(name=name)(x)


def _shortcut(x: Any, filters: int, stride: int, name: str) -> Any:
    """The input itself, or projected to ``filters`` channels where size or channels change."""
    if x.shape[-1] == filters and stride == 1:
        return x
    return conv_batch_norm(x, filters, 1, stride=stride, name=f"{name}_shortcut")


def _basic_block(x: Any, channels: int, stride: int, rates: tuple[int, int], name: str) -> Any:
    """Two 3x3 convolutions, the first with the stride. See `resnet` on the two rates."""
    shortcut = _shortcut(x, channels, stride, name)
    x = conv_batch_norm(x, channels, 3, stride=stride, rate=rates[0], name=f"{name}_conv1")
    x = _relu(x, f"{name}_conv1_relu")
    x = conv_batch_norm(x, channels, 3, rate=rates[1], name=f"{name}_conv2")
    return _relu(keras.layers.Add(name=f"{name}_add")([x, shortcut]), f"{name}_relu")


def _bottleneck_block(x: Any, channels: int, stride: int, rates: tuple[int, int], name: str) -> Any:
    """1x1, 3x3 with the stride, 1x1 to four times the channels. A 1x1 needs no rate."""
    shortcut = _shortcut(x, 4 * channels, stride, name)
    x = conv_batch_norm(x, channels, 1, name=f"{name}_conv1")
    x = _relu(x, f"{name}_conv1_relu")
    x = conv_batch_norm(x, channels, 3, stride=stride, rate=rates[0], name=f"{name}_conv2")
    x = _relu(x, f"{name}_conv2_relu")
    x = conv_batch_norm(x, 4 * channels, 1, name=f"{name}_conv3")
    return _relu(keras.layers.Add(name=f"{name}_add")([x, shortcut]), f"{name}_relu")


_BLOCKS = {
    18: (_basic_block, (2, 2, 2, 2)),
    34: (_basic_block, (3, 4, 6, 3)),
    50: (_bottleneck_block, (3, 4, 6, 3)),
    101: (_bottleneck_block, (3, 4, 23, 3)),
}


def _stem(x: Any, channels: int) -> Any:
    x = conv_batch_norm(x, channels, 7, stride=2, name="stem_conv")
    return _relu(x, "stem_relu")


def _deep_stem(x: Any, channels: int) -> Any:
    """Three 3x3 convolutions for the 7x7, with twice the channels after the last.

    Reference: hszhao/semseg, and He et al., "Bag of Tricks", CVPR 2019, ResNet-C.
    """
    for index, (filters, stride) in enumerate([(channels, 2), (channels, 1), (2 * channels, 1)]):
        x = conv_batch_norm(x, filters, 3, stride=stride, name=f"stem_conv{index + 1}")
        x = _relu(x, f"stem_conv{index + 1}_relu")
    return x


def resnet(
    inputs: Any,
    depth: int,
    output_stride: int,
    width_multiplier: float = 1.0,
    deep_stem: bool = False,
    first_block_dilation: str = "before",
) -> Features:
    """Builds a ResNet without its classifier.

    Beyond the output stride a stage keeps its resolution, and its convolutions are dilated
    instead. Each reads its input at the rate (stride the plain network has there) / (output
    stride), so the features, subsampled, are those of the plain network with the same weights.
    The convolution in whose place the stride was therefore still takes the rate before it, as in
    torchvision. hszhao/semseg gives it the rate after it, which its weights were trained with.

    Args:
      inputs: Keras tensor of normalised pixels, [B, H, W, 3]; H and W may be None.
      depth: 18, 34, 50 or 101.
      output_stride: 8, 16 or 32; the last is the plain network.
      width_multiplier: Factor of all channel counts.
      deep_stem: Three 3x3 convolutions in place of the 7x7, as hszhao/semseg has it.
      first_block_dilation: Rate of the convolution in whose place a stride was: that ``before``
        the stride or that ``after`` it.

    Returns:
      The features of the stem and of each stage. The stages have 64, 128, 256 and 512 channels
      (basic blocks) or 256, 512, 1024 and 2048, times ``width_multiplier``.

    Raises:
      ValueError: If an argument is not as said above.
    """
    if depth not in _BLOCKS:
        raise ValueError(f"`depth` must be one of {sorted(_BLOCKS)}. Received: {depth}")
    base_channels = round(64 * width_multiplier)
    if base_channels < 1:
        raise ValueError(
            "`width_multiplier` must leave the first stage (64 channels) one channel or more. "
            f"Received: {width_multiplier}"
        )
    if first_block_dilation not in ("before", "after"):
        raise ValueError(
            "`first_block_dilation` must be 'before' or 'after'. "
            f"Received: {first_block_dilation!r}"
        )
    block, block_counts = _BLOCKS[depth]

    stem = _deep_stem(inputs, base_channels) if deep_stem else _stem(inputs, base_channels)
    # After a ReLU, padding with 0 and padding with -inf give the same maximum.
    x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(stem)
    x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)

    features = [stem]
    stride_so_far, rate = 4, 1
    for stage, block_count in enumerate(block_counts, start=1):
        plain_stride = 1 if stage == 1 else 2
        stride = plain_stride if stride_so_far * plain_stride <= output_stride else 1
        stride_so_far *= stride
        rate_before, rate = rate, rate * plain_stride // stride
        first_rate = rate if first_block_dilation == "after" else rate_before
        channels = base_channels * 2 ** (stage - 1)
        x = block(x, channels, stride, (first_rate, rate), f"stage{stage}_block1")
        for index in range(2, block_count + 1):
            x = block(x, channels, 1, (rate, rate), f"stage{stage}_block{index}")
        features.append(x)
    return Features(*features)
