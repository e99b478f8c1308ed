"""A network layer by layer: shapes, parameters, multiply-adds, and the backbone's receptive field.

The receptive field's recurrence is that of Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from model.layers import Upsampling
from model.networks import Network
from model.pooling import AdaptiveAveragePooling

PARTS = ("network", "backbone", "decoder", "auxiliary head")


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """A layer of a network, for one picture.

    Attributes:
      name: Of the layer.
      kind: Its class.
      part: One of `PARTS`; ``network`` where there is no backbone.
      shapes: Of its outputs, mostly one, each (H, W, C).
      parameters: Number of its trainable weights; batch normalisation's statistics are none.
      multiply_adds: Of its kernels: (positions of the output) * (numbers in the kernels), which is
        so for convolutions, dilated and depthwise ones too, and for dense layers. Biases,
        normalisation, activations, pooling and resizing are left out, as is usual.
    """

    name: str
    kind: str
    part: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    multiply_adds: int


def layer_summaries(network: Network, height: int, width: int) -> list[LayerSummary]:
    """The layers of a network at one size of picture, part by part.

    TensorFlow's profiler is not used: it reads a dilated convolution as what it is computed by,
    where the features are padded to a multiple of the rate, and counts the padding.

    Args:
      network: A network.
      height: Of the picture, 1 or more.
      width: The same.
    """
    operations = network.model.operations
    # Traced, not computed: only the graph knows all shapes, and it needs no time.
    all_outputs = keras.Model(network.model.input, [operation.output for operation in operations])
    traced = tf.function(lambda pixels: all_outputs(pixels, training=False)).get_concrete_function(
        tf.TensorSpec([1, height, width, 3])
    )
    layers = [
        _layer_summary(operation, _part(operation, network), tf.nest.flatten(outputs))
        for operation, outputs in zip(operations, traced.structured_outputs, strict=True)
    ]
    return sorted(layers, key=lambda layer: PARTS.index(layer.part))


def _part(operation: Any, network: Network) -> str:
    if network.backbone is None:
        return "network"
    if any(operation is other for other in network.backbone.operations):
        return "backbone"
    return "auxiliary head" if operation.name.startswith("auxiliary") else "decoder"


def _layer_summary(operation: Any, part: str, outputs: list[tf.Tensor]) -> LayerSummary:
    weights = [tuple(weight.shape) for weight in getattr(operation, "trainable_weights", [])]
    shapes = tuple(tuple(output.shape.as_list()[1:]) for output in outputs)
    positions = math.prod(shapes[0][:-1])
    return LayerSummary(
        name=operation.name,
        kind=type(operation).__name__,
        part=part,
        shapes=shapes,
        parameters=sum(map(math.prod, weights)),
        multiply_adds=positions * sum(math.prod(shape) for shape in weights if len(shape) > 1),
    )


def inference_flops(layers: Sequence[LayerSummary]) -> int:
    """Two for each multiply-add, without the auxiliary head, which serves training only."""
    return 2 * sum(layer.multiply_adds for layer in layers if layer.part != "auxiliary head")


def output_stride_and_receptive_field(backbone: keras.Model, axis: int) -> tuple[float, float]:
    """Pixels between neighbours of the last stage, and how many of them each sees.

    It sees infinitely many where an average over the whole picture has been taken on the way.

    Args:
      backbone: From pixels to features.
      axis: 0 for the rows of pixels, 1 for the columns.
    """
    of_tensor = {id(backbone.input): (1.0, 1.0)}
    for operation in backbone.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        inputs = [of_tensor[id(x)] for x in tf.nest.flatten(operation.input)]
        strides, fields = zip(*inputs, strict=True)
        result = _after(operation, max(strides), max(fields), axis)
        of_tensor |= {id(x): result for x in tf.nest.flatten(operation.output)}
    return of_tensor[id(backbone.outputs[-1])]


_SEES_ALL = (
    AdaptiveAveragePooling,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
)


def _after(operation: Any, stride: float, field: float, axis: int) -> tuple[float, float]:
    """Stride and field after an operation; features beyond its centre are (stride) pixels apart."""
    if isinstance(operation, _SEES_ALL):
        return stride, math.inf
    if isinstance(operation, Upsampling):
        factor = operation.factors[axis]
        # Bilinear: between two neighbours.
        return stride / factor, field + (stride if factor > 1 else 0)
    kernel_size = getattr(operation, "kernel_size", getattr(operation, "pool_size", (1, 1)))
    rate = getattr(operation, "dilation_rate", (1, 1))[axis]
    step = getattr(operation, "strides", (1, 1))[axis]
    return stride * step, field + (kernel_size[axis] - 1) * rate * stride


def text(network: Network, height: int, width: int) -> str:
    """What `layer_summaries` and `output_stride_and_receptive_field` find, as lines to read."""
    layers = layer_summaries(network, height, width)
    rows = [("part", "layer", "kind", "output", "parameters", "GMAC")]
    for layer in layers:
        shapes = ", ".join("x".join(map(str, shape)) for shape in layer.shapes)
        gmac = f"{layer.multiply_adds / 1e9:.4f}"
        rows.append((layer.part, layer.name, layer.kind, shapes, f"{layer.parameters:,}", gmac))
    lines = [*_columns(rows), "", f"Parameters: {sum(layer.parameters for layer in layers):,}"]
    for part in PARTS:
        of_part = [layer for layer in layers if layer.part == part]
        if of_part:
            lines.append(
                f"  {part}: {sum(layer.parameters for layer in of_part):,}, "
                f"{sum(layer.multiply_adds for layer in of_part) / 1e9:.2f} GMAC"
            )
    lines.append(
        f"Inference, a picture {width} wide and {height} high: "
        f"{inference_flops(layers) / 1e9:.2f} GFLOPs, "
        "two for each multiply-add of convolutions and dense layers, without the auxiliary head"
    )
    if network.backbone is not None:
        strides, fields = zip(
            *(output_stride_and_receptive_field(network.backbone, axis) for axis in (0, 1)),
            strict=True,
        )
        sees = "the whole picture" if math.inf in fields else f"{_sides(fields)} pixels"
        stage = len(network.backbone.outputs) - 1
        lines += [f"Output stride: {_sides(strides)}", f"Receptive field of stage {stage}: {sees}"]
    return "\n".join(lines)


def _sides(sides: Sequence[float]) -> str:
    """Of the height and of the width; one number where they are the same."""
    return "x".join(f"{side:g}" for side in dict.fromkeys(sides))


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Texts to the left and, in the last two columns, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < len(row) - 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
