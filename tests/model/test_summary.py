"""Multiply-adds by hand, by TensorFlow's profiler and as published; receptive fields likewise."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import networks
from model.losses import CrossEntropy
from model.networks import Network
from model.summary import layer_summaries, output_stride_and_receptive_field, text

DATA = {
    "num_classes": 19,
    "class_colors": np.zeros((19, 3)),
    "mean": (70.0, 80.0, 75.0),
    "std": (40.0, 50.0, 60.0),
    "loss": {},
}


def multiply_adds(layers, *parts):
    return sum(layer.multiply_adds for layer in layers if not parts or layer.part in parts)


def test_multiply_adds_by_hand():
    pixels = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(pixels)  # 11x8 from 21x15
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.Conv2D(6, 3, dilation_rate=4, padding="same", use_bias=False)(x)
    x = keras.layers.SeparableConv2D(5, 3, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(7)(x)
    network = Network(keras.Model(pixels, {"logits": x}), CrossEntropy(), None)
    layers = layer_summaries(network, 21, 15)
    assert {layer.part for layer in layers} == {"network"}
    assert [layer.multiply_adds for layer in layers] == [
        0,
        11 * 8 * (9 * 3 * 8),
        0,
        11 * 8 * (9 * 8),
        11 * 8 * (9 * 8 * 6),
        11 * 8 * (9 * 6 + 6 * 5),
        0,
        5 * 7,
    ]
    parameters = [0, 28 * 8, 2 * 8, 10 * 8, 9 * 8 * 6, 9 * 6 + 7 * 5, 0, 6 * 7]
    assert [layer.parameters for layer in layers] == parameters
    assert [layer.shapes for layer in layers][1:] == [((11, 8, 8),)] * 3 + [
        ((11, 8, 6),), ((11, 8, 5),), ((5,),), ((7,),)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "gmac"),
    # torchvision's documentation, which calls them GFLOPS, less the classifier's.
    [("resnet18", 1.814 - 512e-6), ("resnet50", 4.089 - 2048e-6)],
)
def test_multiply_adds_of_the_backbones_as_published(backbone, gmac):
    network = networks.build("fcn32s", **DATA, backbone=backbone, output_stride=32)
    layers = layer_summaries(network, 224, 224)
    assert multiply_adds(layers, "backbone") / 1e9 == pytest.approx(gmac, abs=0.001)


def profiled_convolutions(model, height, width):
    """FLOPs of a model's convolutions, as TensorFlow's profiler counts them."""
    graph = (
        tf.function(lambda pixels: model(pixels, training=False))
        .get_concrete_function(tf.TensorSpec([1, height, width, 3]))
        .graph
    )
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    node = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    while node.name != "Conv2D":
        (node,) = node.children
    return node.float_ops


@pytest.mark.parametrize("name", ["pspnet", "deeplabv3plus"])
def test_multiply_adds_are_the_profilers_where_it_pads_nothing(name):
    # Rates of 2, 4, 12, 24 and 36, and features of 72x72.
    network = networks.build(name, **DATA, width_multiplier=0.125)
    layers = layer_summaries(network, 576, 576)
    assert 2 * multiply_adds(layers) == profiled_convolutions(network.model, 576, 576)


def test_parts():
    network = networks.build("pspnet", **DATA)
    layers = layer_summaries(network, 40, 24)
    sizes = {
        part: sum(layer.parameters for layer in layers if layer.part == part)
        for part in ("backbone", "decoder", "auxiliary head")
    }
    assert sizes == {  # torchvision's ResNet-18 without its classifier; see test_pspnet
        "backbone": 11_689_512 - 513_000,
        "decoder": 4 * (512 + 2) * 128 + (9 * 1024 + 2) * 512 + 513 * 19,
        "auxiliary head": (9 * 256 + 2) * 256 + 257 * 19,
    }
    (pool,) = (layer for layer in layers if layer.name == "pyramid_pool")
    assert pool.shapes == ((1, 1, 512), (2, 2, 512), (3, 3, 512), (6, 6, 512))

    lines = text(network, 40, 24).splitlines()
    (conv,) = (line.split() for line in lines if " stage2_block1_conv1 " in line)
    assert conv == ["backbone", "stage2_block1_conv1", "Conv2D", "5x3x128", "73,728", "0.0011"]
    total = f"{2 * multiply_adds(layers, 'backbone', 'decoder') / 1e9:.2f} GFLOPs"
    assert any("24 wide and 40 high" in line and total in line for line in lines)
    assert lines[-2:] == ["Output stride: 8", "Receptive field of stage 4: 435 pixels"]


def test_the_articles_network_is_one_part():
    lines = text(networks.build("article_classes", **DATA), 16, 12).splitlines()
    assert {line.split()[0] for line in lines[1 : lines.index("")]} == {"network"}
    assert any(" logits " in line and " 16x12x19 " in line for line in lines)
    assert "Receptive field" not in lines[-1]


@pytest.mark.parametrize(
    ("build", "field"),
    # Araujo et al. 2019, the models of TensorFlow; without weights nothing is downloaded.
    [
        (keras.applications.ResNet50, 483),
        (keras.applications.MobileNetV2, 491),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_receptive_fields_as_published(build, field):
    model = build(include_top=False, weights=None, input_shape=(None, None, 3))
    for axis in (0, 1):
        assert output_stride_and_receptive_field(model, axis) == (32, field)


def test_upsampled_photos_have_strides_and_fields_of_their_own_pixels():
    network = networks.build("fcn32s", **DATA, width_multiplier=0.1, input_upsampling=(1, 2))
    # Of 435 columns between which there are half as many of the photo's, and one more for the last.
    assert text(network, 32, 32).splitlines()[-2:] == [
        "Output stride: 8x4",
        "Receptive field of stage 4: 435x219 pixels",
    ]


@pytest.mark.parametrize(("backbone", "field"), [("resnet18", 435), ("resnet50", 427)])
def test_dilation_keeps_the_receptive_field(backbone, field):
    # 435 is Araujo et al.'s. With ResNet-50's strides in its 3x3, as here, it is
    # 11 + 3 * 8, + 8 + 3 * 16, + 16 + 5 * 32, + 32 + 2 * 64.
    for output_stride in (8, 16):
        network = networks.build(
            "fcn32s", **DATA, backbone=backbone, width_multiplier=0.1, output_stride=output_stride
        )
        found = output_stride_and_receptive_field(network.backbone, axis=0)
        assert found == (output_stride, field)


def test_an_average_over_the_picture_sees_all_of_it():
    x = keras.Input([None, None, 3])
    features = keras.layers.Conv2D(4, 3, strides=2)(x)
    average = keras.layers.GlobalAveragePooling2D(keepdims=True)(features)
    gated = keras.layers.Multiply()([features, average])
    assert output_stride_and_receptive_field(keras.Model(x, gated), axis=1) == (2, math.inf)
