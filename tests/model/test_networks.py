"""Networks are built by name, with the objective that belongs to each."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import networks
from model.heads import is_of_classes
from model.layers import BatchNormalization, ResizeLike
from model.losses import ColorRegression, CrossEntropy
from model.networks import DECODERS, OPTIONS

DATA = {
    "num_classes": 5,
    "class_colors": np.arange(15).reshape(5, 3) * 17,
    "mean": (70.0, 80.0, 75.0),
    "std": (40.0, 50.0, 60.0),
}
SMALL = {"width_multiplier": 0.125, "head_channels": 8, "auxiliary_channels": 8}


def build(name, loss=None, **options):
    small = {key: value for key, value in SMALL.items() if key in OPTIONS[name]}
    return networks.build(name, **{**DATA, "loss": loss or {}, **small, **options})


# A part of FCN-8s and of DeepLabv3+.
PARTS = ("fcn32s", "deeplabv3")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name in PARTS)) for name in sorted(DECODERS)
    ],
)
def model(request):
    keras.utils.set_random_seed(0)
    return build(request.param).model


def random_pixels(height, width, batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (9, 1)])
def test_outputs_have_the_size_of_the_pixels(model, size):
    outputs = model(random_pixels(*size))
    assert sorted(outputs) == ["auxiliary_logits", "logits"]
    for logits in outputs.values():
        assert logits.shape == (2, *size, 5)
        assert logits.dtype == tf.float32


def test_one_trace_with_unknown_sizes_equals_eager(model):
    traced = tf.function(
        lambda pixels: model(pixels, training=False),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
    )
    for size in [(40, 64), (33, 57)]:
        pixels = tf.cast(random_pixels(*size), tf.float32)
        for name, eager in model(pixels, training=False).items():
            np.testing.assert_allclose(traced(pixels)[name], eager, atol=1e-5)
    assert traced.experimental_get_tracing_count() == 1


def test_bytes_and_floats_are_the_same_pixels(model):
    pixels = random_pixels(32, 32)
    from_bytes = model(pixels)["logits"]
    np.testing.assert_array_equal(from_bytes, model(pixels.astype(np.float32))["logits"])


def test_starts_with_classes_about_equally_likely(model):
    logits = model(random_pixels(64, 64), training=True)["logits"]
    assert np.abs(tf.nn.softmax(logits) - 1 / 5).max() < 0.1


def test_every_weight_has_a_gradient(model):
    with tf.GradientTape() as tape:
        outputs = model(random_pixels(48, 48), training=True)
        loss = tf.add_n([tf.reduce_sum(tf.square(logits)) for logits in outputs.values()])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_main_head_alone_shares_the_weights(model):
    alone = keras.Model(model.input, {"logits": model.output["logits"]})
    assert not any("auxiliary" in weight.path for weight in alone.weights)
    pixels = random_pixels(32, 40)
    np.testing.assert_allclose(alone(pixels)["logits"], model(pixels)["logits"], atol=1e-6)


@pytest.mark.parametrize(
    "without", [{"auxiliary_channels": 0}, {"loss": {"auxiliary_weight": 0.0}}], ids=str
)
def test_without_the_auxiliary_head(without):
    model = build("pspnet", **without).model
    assert sorted(model.output) == ["logits"]
    assert not any("auxiliary" in weight.path for weight in model.weights)


@pytest.mark.parametrize(("name", "stages"), [("pspnet", 5), ("ladder", 4)])
def test_the_backbone_is_a_part_of_the_model(name, stages):
    network = build(name)
    assert len(network.backbone.outputs) == stages
    ours = {id(weight) for weight in network.model.weights}
    assert {id(weight) for weight in network.backbone.weights} < ours
    assert not any("head" in weight.path for weight in network.backbone.weights)
    assert build("article").backbone is None


def test_the_backbone_sees_upsampled_pixels():
    plain, wide = build("ladder"), build("ladder", input_upsampling=(1, 2))
    wide.model.set_weights(plain.model.get_weights())
    pixels = random_pixels(40, 24)
    expected = plain.backbone(tf.image.resize(pixels, (40, 48)))
    signature = [tf.TensorSpec([None, None, None, 3], tf.float32)]
    traced = tf.function(wide.backbone, input_signature=signature)
    for found, wanted in zip(traced(tf.cast(pixels, tf.float32)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert wide.model(pixels)["logits"].shape == (2, 40, 24, 5)


@pytest.mark.parametrize(
    ("normalization", "mean", "std"),
    [
        ("data", DATA["mean"], DATA["std"]),
        # As torchvision's documentation gives them, times 255.
        ("imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_normalizes_pixels(normalization, mean, std):
    model = build("pspnet", normalization=normalization).model
    normalize = keras.Model(model.input, model.get_layer("normalize").output)
    pixels = random_pixels(4, 4)
    expected = (pixels - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_every_resize_has_the_corners_where_they_are_wanted(name, align_corners):
    layers = build(name, align_corners=align_corners).model.layers
    resizes = [
        layer for layer in layers
        # What is resized from 1x1 is the same everywhere.
        if isinstance(layer, ResizeLike) and layer.name != "aspp_pool_resize"
    ]  # fmt: skip
    assert len(resizes) >= 2
    assert {layer.align_corners for layer in resizes} == {align_corners}


def test_scores_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        outputs = build("pspnet").model(random_pixels(32, 32))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {logits.dtype for logits in outputs.values()} == {tf.float32}


@pytest.mark.slow
def test_saved_model_takes_every_size(tmp_path):
    model = build("pspnet").model
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    pixels = tf.cast(random_pixels(35, 46, batch=1), tf.float32)
    served = loaded.serve(pixels)["logits"]
    np.testing.assert_allclose(served, model(pixels)["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "objective_type"),
    [
        *((name, CrossEntropy) for name in sorted(DECODERS)),
        ("article", ColorRegression),
        ("article_classes", CrossEntropy),
    ],
)
def test_network_and_objective_fit(name, objective_type):
    network = build(name)
    assert isinstance(network.objective, objective_type)
    outputs = network.model(random_pixels(9, 10))
    losses, counts = network.objective.loss(outputs, np.ones((2, 9, 10), np.uint8))
    assert np.isfinite(losses).all()
    np.testing.assert_array_equal(counts, [180] * len(outputs))
    assert network.objective.scores(outputs).shape == (2, 9, 10, 5)


def test_options_reach_the_objective():
    assert build("pspnet", loss={"auxiliary_weight": 0.2}).objective.auxiliary_weight == 0.2


def test_options_are_those_of_the_functions():
    assert OPTIONS["article"] == OPTIONS["article_classes"] == set()
    shared = {"backbone", "output_stride", "dropout", "auxiliary_channels"}
    assert OPTIONS["pspnet"] >= shared | {"bins", "head_channels"}
    assert OPTIONS["fcn8s"] >= shared
    assert not OPTIONS["fcn8s"] & {"bins", "head_channels", "atrous_rates"}


@pytest.mark.parametrize(
    "argument",
    [
        {"num_classes": 0},
        {"backbone": "resnet20"},
        {"output_stride": 12},
        {"input_upsampling": (2,)},
        {"input_upsampling": (0, 1)},
        {"width_multiplier": 0},
        {"head_channels": 0},
        {"auxiliary_channels": -1},
        {"dropout": 1.0},
        {"first_block_dilation": "during"},
        {"normalization": "none"},
        {"mean": (1.0, 2.0)},
        {"std": (1.0, 2.0, 0.0)},
        {"deepth": 18},
    ],
    ids=str,
)
def test_refuses(argument):
    with pytest.raises(ValueError, match="Received: "):
        build("pspnet", **argument)


def test_refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"'article'.*'pspnet'.*Received: 'segnet'"):
        networks.build("segnet", **DATA, loss={})


def test_a_decoder_is_told_the_output_stride():
    for output_stride, rate in [(8, 12), (16, 6)]:
        model = build("deeplabv3", output_stride=output_stride).model
        assert model.get_layer("aspp_atrous1").dilation_rate == (rate, rate)


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"article"}))
def test_variables_of_the_classes_are_those_whose_shape_has_their_number(name):
    few, more = (build(name, num_classes=n).model.variables for n in (5, 6))
    found = {v.path for v in few if is_of_classes(v.path)}
    assert found == {a.path for a, b in zip(few, more, strict=True) if a.shape != b.shape}
    assert found


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_tensorflow_variable_is_called_by_its_path(name):
    variables = [v for v in build(name).model.variables if v.dtype == "float32"]
    assert len({v.path for v in variables}) == len(variables)
    assert all(v.value.name == f"{v.path}:0" for v in variables)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3small"])
def test_frozen_normalisations_train_as_they_are_evaluated(backbone):
    options = {"backbone": backbone, "width_multiplier": 0.75, "output_stride": 16}
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    for frozen in (False, True):
        network = build("pspnet", **options, freeze_batch_norm=frozen)
        before = [v.numpy() for v in network.backbone.variables]
        trained = network.backbone(pixels, training=True)
        same = [
            np.array_equal(v, b) for v, b in zip(network.backbone.variables, before, strict=True)
        ]
        assert all(same) == frozen
        evaluated = network.backbone(pixels, training=False)
        close = [np.allclose(a, b, rtol=1e-4, atol=1e-4)
                 for a, b in zip(trained, evaluated, strict=True)]  # fmt: skip
        assert all(close) == frozen
        normalisations = [x for x in network.model.layers if isinstance(x, BatchNormalization)]
        assert {x.trainable for x in normalisations if x in network.backbone.layers} == {not frozen}
        assert all(x.trainable for x in normalisations if x not in network.backbone.layers)
