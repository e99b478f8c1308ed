"""Backbones of keras.applications: dilation changes their resolution, not their features.

The reference is the network as keras.applications builds it for a known size, with its own
preprocessing. Its weights reach ours through a file, as a user's do.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import backbones, networks
from model.applications import dilated
from trainer import backbone_weights
from trainer.config import ModelConfig

APPLICATIONS = keras.applications
REFERENCES = {
    "resnet50_v1": (
        APPLICATIONS.ResNet50,
        APPLICATIONS.resnet.preprocess_input,
        ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
        "conv5_block3_out",
    ),
    "resnet101_v1": (
        APPLICATIONS.ResNet101,
        APPLICATIONS.resnet.preprocess_input,
        ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block23_out"),
        "conv5_block3_out",
    ),
    "mobilenetv2": (
        APPLICATIONS.MobileNetV2,
        APPLICATIONS.mobilenet_v2.preprocess_input,
        ("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add"),
        "block_16_project_BN",
    ),
    "mobilenetv3small": (
        APPLICATIONS.MobileNetV3Small,
        APPLICATIONS.mobilenet_v3.preprocess_input,
        (None, "expanded_conv_project_bn", "expanded_conv_2_add", "expanded_conv_7_add"),
        None,
    ),
    "mobilenetv3large": (
        APPLICATIONS.MobileNetV3Large,
        APPLICATIONS.mobilenet_v3.preprocess_input,
        ("expanded_conv_add", *(f"expanded_conv_{n}_add" for n in (2, 5, 11))),
        None,
    ),
}
# What keras.applications documents with include_top=False, for MobileNetV2 less 320 x 1,280
# and the four values of each of 1,280 channels.
PARAMETERS = {
    "resnet50_v1": 23_587_712,
    "resnet101_v1": 42_658_176,
    "mobilenetv2": 2_257_984 - 1280 * (320 + 4),
    "mobilenetv3small": 939_120,
    "mobilenetv3large": 2_996_352,
}
WIDTH = 0.75  # Of the MobileNets, where they are compared.
STAGE4_CHANNELS = {
    "resnet50_v1": 2048,
    "resnet101_v1": 2048,
    "mobilenetv2": 320,
    "mobilenetv3small": 576,
    "mobilenetv3large": 960,
}


def build(name, output_stride, width_multiplier=1.0):
    pixels = keras.Input([None, None, 3], name="pixels")
    features = backbones.build(
        name,
        pixels,
        mean=(70.0, 80.0, 75.0),
        std=(40.0, 50.0, 60.0),
        output_stride=output_stride,
        width_multiplier=width_multiplier,
    )
    return keras.Model(pixels, list(features))


def reference(name, pixels, rng, squeeze):
    """The whole network, and its features of ``pixels``, of the stem and of each stage.

    Batch normalisation takes about the statistics that these pixels have, so that features differ
    from place to place; with others they would hardly, and would be equal wherever they are read.

    Without ``squeeze``, squeeze-and-excite scales by random factors that do not depend on the
    picture: the mean over a finer map cannot equal the mean over the coarser one.
    """
    function, preprocess, names, last = REFERENCES[name]
    options = {} if name.startswith("resnet") else {"alpha": WIDTH}
    whole = function(
        weights=None, include_top=False, input_shape=(*pixels.shape[1:3], 3), **options
    )
    norms = [x for x in whole.layers if isinstance(x, keras.layers.BatchNormalization)]
    for layer in norms:
        (channels,) = layer.gamma.shape
        layer.gamma.assign(rng.uniform(0.5, 1.5, channels))
        layer.beta.assign(rng.normal(0, 0.2, channels))
        layer.momentum = 0.0
    for layer in whole.layers:
        if layer.name.endswith("squeeze_excite_conv"):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * squeeze, rng.uniform(-1, 3, bias.shape)])
    inputs = preprocess(pixels.copy())
    whole(inputs, training=True)
    for layer in norms:
        deviation = np.sqrt(layer.moving_variance)
        layer.moving_mean.assign_add(deviation * rng.normal(0, 0.2, deviation.shape))
        layer.moving_variance.assign((deviation * rng.uniform(0.7, 1.4, deviation.shape)) ** 2)
    outputs = [
        whole.get_layer(name).output
        if name
        else whole.get_layer("expanded_conv_depthwise_pad").input
        for name in names
    ]
    outputs.append(whole.get_layer(last).output if last else whole.output)
    return whole, [y.numpy() for y in keras.Model(whole.input, outputs)(inputs)]


def subsampled(dense, stride, dense_stride, symmetric):
    """Features at ``dense_stride`` at the places where the network without dilation has them."""
    slices = []
    for size in dense.shape[1:3]:
        start, step = 0, 1
        while dense_stride * step < stride:
            # Padded like "same", a kernel on an even size is centred on the second of each two.
            start += 0 if symmetric else step * (1 - size % 2)
            step, size = 2 * step, -(-size // 2)
        slices.append(slice(start, None, step))
    return dense[(slice(None), *slices)]


SIZES = [(64, 97), (81, 70)]  # even and odd at every stride
CASES = [
    (name, stride, size, stride == 32 or "v3" not in name)
    for name in REFERENCES
    for stride, size in [(8, SIZES[0]), (16, SIZES[1]), (32, SIZES[0])]
]
QUICK = [("mobilenetv3small", 8)]


def case(name, stride, size, squeeze):
    quick = (name, stride) in QUICK
    return pytest.param(name, stride, size, squeeze, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "output_stride", "size", "squeeze"),
    [case(*values) for values in CASES],
)
def test_dilated_features_subsampled_are_the_plain_networks(
    name, output_stride, size, squeeze, tmp_path
):
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    pixels = rng.uniform(0, 255, (2, *size, 3)).astype(np.float32)
    whole, features = reference(name, pixels, rng, squeeze)
    whole.save_weights(tmp_path / "saved.weights.h5")
    width = 1.0 if name.startswith("resnet") else WIDTH
    ours = build(name, output_stride, width)
    config = ModelConfig(
        backbone=name,
        width_multiplier=width,
        backbone_weights=str(tmp_path / "saved.weights.h5"),
    )
    backbone_weights.load(config, ours)

    differences = []
    for stride, expected, dense in zip((2, 4, 8, 16, 32), features, ours(pixels), strict=True):
        dense_stride = min(stride, output_stride)
        assert dense.shape[1:3] == tuple(-(-side // dense_stride) for side in size)
        found = subsampled(dense.numpy(), stride, dense_stride, name.startswith("resnet"))
        assert found.shape == expected.shape
        scale = np.abs(expected).max()
        # Else little would be compared, and any place would do.
        assert np.std(expected, axis=(1, 2)).mean() > 0.02 * scale
        differences.append(np.abs(found - expected).max() / scale)
    print(f"{name} at output stride {output_stride}, {size}: {max(differences):.1e}")
    assert np.max(differences) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_channels_are_the_published(name):
    model = build(name, 8)
    assert model.count_params() == PARAMETERS[name]
    assert model.outputs[-1].shape[-1] == STAGE4_CHANNELS[name]


def tiny():
    """Two equal convolutions; then strides as MobileNets have them, then as ResNets."""
    inputs = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(3, 3, padding="same", name="first")(inputs)
    x = keras.layers.Conv2D(3, 3, padding="same", name="second")(x)
    x = keras.layers.BatchNormalization(momentum=0.999, epsilon=0.01, name="norm")(x)
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = keras.layers.DepthwiseConv2D(3, strides=2, name="depthwise")(x)
    shortcut = keras.layers.Conv2D(2, 1, strides=2, name="shortcut")(x)
    x = keras.layers.Conv2D(2, 1, strides=2, name="reduce")(x)
    x = keras.layers.Conv2D(2, 3, padding="same", name="last")(x)
    return keras.Model(inputs, x + shortcut)


def tiny_dilated(output_stride=1):
    return dilated(tiny(), output_stride, keras.Input([None, None, 3]))


@pytest.mark.parametrize("output_stride", [1, 2, 4])
def test_a_tiny_networks_features_are_kept(output_stride):
    rng = np.random.default_rng(0)
    plain = tiny()
    ours = dilated(plain, output_stride, keras.Input([None, None, 3]))
    plain.set_weights([rng.uniform(0.2, 1, weight.shape) for weight in plain.weights])
    ours.set_weights(plain.get_weights())
    pixels = rng.normal(size=(1, 12, 18, 3)).astype(np.float32)
    start = 1 if output_stride == 1 else 0  # of the depthwise convolution
    step = 4 // output_stride
    found, expected = ours(pixels)[:, start::step, start::step], plain(pixels)
    assert found.shape == (1, 3, 5, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("output_stride", "strides", "rate"), [(1, 1, 4), (2, 2, 2)])
def test_dilation_takes_the_place_of_the_stride(output_stride, strides, rate):
    model = tiny_dilated(output_stride)
    assert model.get_layer("depthwise").strides == (strides, strides)
    assert model.get_layer("depthwise").dilation_rate == (1, 1)
    assert model.get_layer("last").dilation_rate == (rate, rate)
    for size in (7, 8):
        side = -(-size // strides)
        assert model(np.zeros((1, size, size, 3))).shape == (1, side, side, 2)


def test_batch_normalization_is_over_all_replicas():
    layer = tiny_dilated().get_layer("norm")
    assert (layer.synchronized, layer.momentum, layer.epsilon) == (True, 0.9, 0.01)


def test_initialisation_depends_on_the_seed_only():
    def kernels(seed):
        keras.utils.set_random_seed(seed)
        model = tiny_dilated()
        return [weight.numpy() for weight in model.weights if weight.path.endswith("kernel")]

    first, again, other = kernels(0), kernels(0), kernels(1)
    for kernel, kernel_again, kernel_other in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(kernel, kernel_again)
        assert np.abs(kernel - kernel_other).max() > 0.01
    assert np.abs(first[0] - first[1]).max() > 0.01  # kernels of one shape


def test_mixed_precision_reaches_the_copy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny_dilated()
    finally:
        keras.config.set_dtype_policy("float32")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model(np.zeros((1, 8, 8, 3), np.float32)).dtype == tf.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50_v1", "mobilenetv2", "mobilenetv3small"])
def test_a_network_on_it_learns_and_serves_every_size(name, tmp_path):
    model = networks.build(
        "pspnet", num_classes=3, class_colors=np.zeros((3, 3)), mean=(1.0, 2.0, 3.0),
        std=(1.0, 1.0, 1.0), loss={}, backbone=name, output_stride=16, head_channels=8, bins=(1, 2),
    ).model  # fmt: skip
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) > 30 and all(layer.synchronized for layer in norms)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 50, 37, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        outputs = model(pixels, training=True)
        loss = tf.add_n([tf.reduce_sum(tf.square(logits)) for logits in outputs.values()])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(pixels)["logits"]
    assert served.shape == (2, 50, 37, 3)
    expected = model(pixels)["logits"]
    np.testing.assert_allclose(served, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50_v1", {"width_multiplier": 0.5}),
        ("resnet101_v1", {"deep_stem": True}),
        ("mobilenetv2", {"deep_stem": True}),
        ("mobilenetv2", {"first_block_dilation": "after"}),
        ("mobilenetv3small", {"normalization": "imagenet"}),
        ("mobilenetv3large", {"width_multiplier": 0.0}),
        ("mobilenetv3large", {"width_multiplier": -1.0}),
    ],
    ids=str,
)
def test_refuses(name, options):
    pixels = keras.Input([None, None, 3])
    ((option, value),) = options.items()
    with pytest.raises(ValueError, match=rf"`{option}`.* Received: {value!r}") as caught:
        backbones.build(name, pixels, mean=(0, 0, 0), std=(1, 1, 1), **options)
    assert value in (0.0, -1.0) or name in str(caught.value)
