"""Backbones of `keras.applications` at a chosen output stride; its weights fit them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from model.features import Features
from model.layers import BATCH_NORM_MOMENTUM, BatchNormalization, Conv2D


def _caffe(pixels: Any) -> Any:
    """BGR, less the mean of ImageNet's pixels; not scaled."""
    x = keras.ops.flip(pixels, axis=-1)
    offset = [-103.939, -116.779, -123.68]
    return keras.layers.Rescaling(1.0, offset, dtype="float32", name="normalize")(x)


def _minus_one_to_one(pixels: Any) -> Any:
    return keras.layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="normalize")(pixels)


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of `keras.applications` as a backbone.

    Attributes:
      build: The function that builds it.
      normalize: From RGB in 0 to 255 to what it was trained on.
      readers: Names of the layers whose inputs are the stem and stages 1 to 3, each the first
        layer of the next stage; a fifth, if there is one, reads stage 4, which else is the
        network's output.
      has_alpha: Whether its channels can be multiplied.
    """

    build: Callable[..., keras.Model]
    normalize: Callable[[Any], Any]
    readers: tuple[str, ...]
    has_alpha: bool = True


_RESNET_READERS = ("pool1_pad", *(f"conv{n}_block1_1_conv" for n in (3, 4, 5)))

APPLICATIONS = {
    "resnet50_v1": Application(keras.applications.ResNet50, _caffe, _RESNET_READERS, False),
    "resnet101_v1": Application(keras.applications.ResNet101, _caffe, _RESNET_READERS, False),
    # Without the 1,280 channels before the classifier, as mmsegmentation uses it.
    "mobilenetv2": Application(
        keras.applications.MobileNetV2,
        _minus_one_to_one,
        (*(f"block_{n}_expand" for n in (1, 3, 6, 13)), "Conv_1"),
    ),
    # With the last 1x1 convolution (576 or 960 channels): for torchvision's segmentation it is C5.
    # Their own scaling is left out, as it is the one we put before.
    "mobilenetv3small": Application(
        functools.partial(keras.applications.MobileNetV3Small, include_preprocessing=False),
        _minus_one_to_one,
        ("expanded_conv_depthwise_pad", *(f"expanded_conv_{n}_expand" for n in (1, 3, 8))),
    ),
    "mobilenetv3large": Application(
        functools.partial(keras.applications.MobileNetV3Large, include_preprocessing=False),
        _minus_one_to_one,
        tuple(f"expanded_conv_{n}_expand" for n in (1, 3, 6, 12)),
    ),
}


def plain_network(name: str, width_multiplier: float = 1.0, **options: Any) -> keras.Model:
    """The network as `keras.applications` builds it, from normalised pixels, without weights.

    Args:
      name: One of `APPLICATIONS`.
      width_multiplier: Factor of the channel counts, which are rounded to multiples of 8.
      **options: For the function of `keras.applications`, such as ``include_top``.

    Raises:
      ValueError: If the network does not take the multiplier.
    """
    application = APPLICATIONS[name]
    if application.has_alpha:
        if width_multiplier <= 0:
            raise ValueError(f"`width_multiplier` must be positive. Received: {width_multiplier}")
        options["alpha"] = width_multiplier
    elif width_multiplier != 1:
        raise ValueError(
            f"`width_multiplier` must be 1 for the backbone {name!r}. Received: {width_multiplier}"
        )
    return application.build(weights=None, **options)


def application(
    pixels: Any,
    name: str,
    output_stride: int,
    width_multiplier: float = 1.0,
    deep_stem: bool = False,
) -> Features:
    """Builds a network of `keras.applications` without its classifier.

    Pixels are normalised as they were when it was trained, whatever the data set. Layers keep
    their names, by which weights are loaded.

    Args:
      pixels: Keras input of RGB in 0 to 255, float32 [B, H, W, 3]; H and W may be None.
      name: One of `APPLICATIONS`.
      output_stride: 8, 16 or 32; see `dilated`.
      width_multiplier: See `plain_network`.
      deep_stem: Must be False; there is no such variant.

    Returns:
      The last features of each stride; in the MobileNets they are the narrow ones between blocks,
      but for stage 4 of MobileNetV3.

    Raises:
      ValueError: If an argument is not as said above.
    """
    if deep_stem:
        raise ValueError(f"`deep_stem` must be False for the backbone {name!r}. Received: True")
    inputs = keras.Input([None, None, 3], dtype="float32")
    plain = plain_network(
        name,
        width_multiplier,
        include_top=False,
        input_tensor=APPLICATIONS[name].normalize(inputs),
    )
    stages = [plain.get_layer(reader).input for reader in APPLICATIONS[name].readers]
    if len(stages) < len(Features._fields):
        stages.append(plain.output)
    return Features(*dilated(keras.Model(inputs, stages), output_stride, pixels).outputs)


def dilated(network: keras.Model, output_stride: int, pixels: Any) -> keras.Model:
    """Copies a network, without its weights, with dilation in place of the last strides.

    Where the original's stride would pass the output stride, a convolution keeps the resolution
    instead; one whose input had a stride beyond it is dilated at the rate (that stride) / (output
    stride). The features, subsampled, are then those of the original with the same weights, but
    for global pooling (MobileNetV3's squeeze-and-excite), which averages all of the finer
    features, not every other.

    Strided depthwise convolutions are padded like "same", as `keras.applications` pads them for
    sizes it knows; for unknown sizes it takes them for even. They read a map of even size from
    its second pixel, so there subsampling begins: n pixels in, features [1 - n % 2::2] remain.
    ResNets, padded alike on both sides, begin at the first.

    Batch normalisation is over the global batch and has the momentum of `layers.conv_batch_norm`:
    MobileNets' own, 0.999, is for training far longer than ours.

    Args:
      network: Of convolutions, padding, pooling and what works pixel by pixel.
      output_stride: Pixels a feature stands for at most.
      pixels: Keras input for the copy, of the shape of the network's.
    """
    strides: dict[int, int] = {}  # The original's stride at each tensor, by the tensor's id.

    def copy(operation: keras.Operation) -> keras.Operation:
        inputs = keras.tree.flatten(operation.input)
        before = after = max(strides.get(id(tensor), 1) for tensor in inputs)
        config = operation.get_config()
        if isinstance(
            operation,
            (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.MaxPooling2D),
        ):
            after = before * operation.strides[0]
            if after > output_stride:
                config["strides"] = 1
        strides[id(operation.output)] = after
        if isinstance(operation, keras.layers.BatchNormalization):
            return BatchNormalization.from_config({**config, "momentum": BATCH_NORM_MOMENTUM})
        if isinstance(operation, keras.layers.DepthwiseConv2D):
            config["padding"] = "same"
        if hasattr(operation, "dilation_rate") and operation.kernel_size != (1, 1):
            config["dilation_rate"] = max(1, before // output_stride)
        if isinstance(operation, keras.layers.ZeroPadding2D) and _pads_unlike(operation):
            # It stands before a depthwise convolution, which pads itself now.
            return keras.layers.Identity(name=operation.name)
        if type(operation) is keras.layers.Conv2D:
            return Conv2D.from_config(config)
        return operation.__class__.from_config(config)

    return keras.models.clone_model(network, input_tensors=pixels, clone_function=copy)


def _pads_unlike(layer: keras.layers.ZeroPadding2D) -> bool:
    (top, bottom), (left, right) = layer.padding
    return (top, left) != (bottom, right)
