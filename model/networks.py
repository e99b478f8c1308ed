"""The networks by name: a backbone and a decoder, or the article's, and the objective of each."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy.typing as npt

from model import backbones
from model.article import article, article_classes
from model.deeplabv3 import deeplabv3
from model.deeplabv3plus import deeplabv3plus
from model.fcn import fcn8s, fcn32s
from model.heads import convolutional_head
from model.ladder import ladder
from model.layers import BatchNormalization, ResizeLike, Upsampling
from model.losses import ColorRegression, CrossEntropy, Objective
from model.pspnet import pspnet
from model.unet import unet

DECODERS: dict[str, Callable[..., Any]] = {
    "deeplabv3": deeplabv3,
    "deeplabv3plus": deeplabv3plus,
    "fcn32s": fcn32s,
    "fcn8s": fcn8s,
    "ladder": ladder,
    "pspnet": pspnet,
    "unet": unet,
}
"""Functions of `Features`, the number of classes and options to scores of any size.

All take ``dropout``; one that takes ``output_stride`` or ``align_corners`` is told the network's.
"""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that can be trained.

    Attributes:
      model: From RGB pixels in 0 to 255, uint8 or float32 [B, H, W, 3], to a dict of outputs,
        float32 [B, H, W, ...] each. An output whose name starts with ``auxiliary`` serves training
        only.
      objective: What it is trained for, and how its outputs are read.
      backbone: The part of it from pixels to those of the `Features` that it computes; None in a
        network that has no such part.
    """

    model: keras.Model
    objective: Objective
    backbone: keras.Model | None

    def __call__(self, pixels: Any) -> Any:
        """The classes' scores, float32 [B, H, W, K], of what `model` takes."""
        return self.objective.scores(self.model(pixels, training=False))

    def for_inference(self) -> keras.Model:
        """The model without the outputs that serve training only; it shares the weights."""
        outputs = self.model.output.items()
        heads = {name: x for name, x in outputs if not name.startswith("auxiliary")}
        return keras.Model(self.model.input, heads)


def segmentation_network(
    decoder: Callable[..., Any],
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    input_upsampling: Sequence[int] = (1, 1),
    backbone: str = "resnet18",
    output_stride: int = 8,
    width_multiplier: float = 1.0,
    deep_stem: bool = False,
    first_block_dilation: str = "before",
    normalization: str = "data",
    align_corners: bool = False,
    auxiliary_channels: int = 256,
    dropout: float = 0.1,
    freeze_batch_norm: bool = False,
    **decoder_options: Any,
) -> tuple[keras.Model, keras.Model]:
    """Builds a backbone and a decoder, for pixels of any size.

    The auxiliary head sits on stage 3 and only helps training. It is PSPNet's (Zhao et al. 2017,
    section 3.3; its 256 channels from hszhao/semseg); the other decoders get it too, so that
    they are compared alike.

    Args:
      decoder: One of `DECODERS`.
      num_classes: Number of classes, K.
      mean: See `backbones.build`.
      std: The same.
      input_upsampling: Factors by which the height and the width of what the backbone sees are
        enlarged, bilinearly with half-pixel centres. Photos that were squeezed to half their width
        get it back with (1, 2); the features' strides are those of the enlarged pixels.
      backbone: See `backbones.build`, as for the next five.
      output_stride: The same.
      width_multiplier: The same.
      deep_stem: The same.
      first_block_dilation: The same.
      normalization: The same.
      align_corners: How scores and features are resized, see `ResizeLike`.
      auxiliary_channels: Of the auxiliary head's convolution; 0 for no such head.
      dropout: Share of the heads' channels dropped in training.
      freeze_batch_norm: Whether the backbone's batch normalisations keep their statistics, scales
        and offsets in training, for small batches or few pictures; they normalise by what they
        keep then.
      **decoder_options: For the decoder.

    Returns:
      A model from pixels to a dict of ``logits`` and, with an auxiliary head,
      ``auxiliary_logits``, each float32 [B, H, W, K]; and one from pixels to those of the
      `Features` that it computes, with the same weights.

    Raises:
      ValueError: If an argument is not as said above.
    """
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be 1 or more. Received: {num_classes}")
    if auxiliary_channels < 0:
        raise ValueError(f"`auxiliary_channels` must be 0 or more. Received: {auxiliary_channels}")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and below 1. Received: {dropout}")
    pixels = keras.Input([None, None, 3], dtype="float32", name="pixels")
    features = backbones.build(
        backbone,
        _upsampled(pixels, input_upsampling),
        mean=mean,
        std=std,
        output_stride=output_stride,
        width_multiplier=width_multiplier,
        deep_stem=deep_stem,
        first_block_dilation=first_block_dilation,
        normalization=normalization,
    )
    shared = {"output_stride": output_stride, "align_corners": align_corners}
    for option in shared.keys() & _options(decoder):
        decoder_options[option] = shared[option]
    x = decoder(features, num_classes, dropout=dropout, **decoder_options)
    outputs = {"logits": ResizeLike(align_corners, name="head_resize")([x, pixels])}
    if auxiliary_channels:
        x = convolutional_head(
            features.stage3, auxiliary_channels, num_classes, dropout, "auxiliary"
        )
        resize = ResizeLike(align_corners, name="auxiliary_resize")
        outputs["auxiliary_logits"] = resize([x, pixels])
    model = keras.Model(pixels, outputs)
    made = {id(x) for operation in model.operations for x in keras.tree.flatten(operation.output)}
    computed = [x for x in features if id(x) in made]
    backbone_model = keras.Model(pixels, computed, name=backbone)
    if freeze_batch_norm:
        for layer in backbone_model.layers:
            layer.trainable = not isinstance(layer, BatchNormalization)
    return model, backbone_model


def _upsampled(pixels: Any, factors: Sequence[int]) -> Any:
    if len(factors) != 2 or min(factors) < 1:
        raise ValueError(
            "`input_upsampling` must be two numbers of 1 or more, of the height and the width. "
            f"Received: {factors}"
        )
    if max(factors) == 1:
        return pixels
    return Upsampling(factors, name="input_upsampling")(pixels)


def _options(*functions: Callable) -> frozenset[str]:
    """Names of the parameters that have a default, so that a network's options are said once."""
    return frozenset(
        parameter.name
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    )


OPTIONS = {name: _options(segmentation_network, decoder) for name, decoder in DECODERS.items()}
OPTIONS |= {"article": _options(article), "article_classes": _options(article_classes)}
"""The networks that can be built, and the options each takes."""


def build(
    name: str,
    *,
    num_classes: int,
    class_colors: npt.ArrayLike,
    mean: Sequence[float],
    std: Sequence[float],
    loss: Mapping[str, Any],
    **options: Any,
) -> Network:
    """Builds a network and its objective for a data set.

    Args:
      name: One of `OPTIONS`.
      num_classes: Number of classes, K.
      class_colors: Colour of each class, RGB in 0 to 255, [K, 3]; only ``article`` reads it.
      mean: Mean of the red, green and blue of the training pixels; the article's networks do not
        read it.
      std: Their standard deviation; the same.
      loss: Options of the objective; ``article`` has none. An ``auxiliary_weight`` of 0 leaves
        the auxiliary head out.
      **options: Of the network.

    Raises:
      ValueError: If the name or an option is unknown, or the network refuses an option's value.
    """
    if name not in OPTIONS:
        raise ValueError(f"The network must be one of {sorted(OPTIONS)}. Received: {name!r}")
    unknown = sorted(options.keys() - OPTIONS[name])
    if unknown:
        raise ValueError(
            f"The network {name!r} takes the options {sorted(OPTIONS[name])}. Received: {unknown}"
        )
    if name == "article":
        return Network(article(), ColorRegression(class_colors), None)
    objective = CrossEntropy(**loss)
    if name == "article_classes":
        return Network(article_classes(num_classes), objective, None)
    if objective.auxiliary_weight == 0:
        options["auxiliary_channels"] = 0
    model, backbone = segmentation_network(
        DECODERS[name], num_classes, mean=mean, std=std, **options
    )
    model.name = name
    return Network(model, objective, backbone)
