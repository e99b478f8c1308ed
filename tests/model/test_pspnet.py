"""PSPNet answers for every pixel of a picture of any size."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.pspnet import pspnet

SMALL = {
    "mean": (70.0, 80.0, 75.0),
    "std": (40.0, 50.0, 60.0),
    "width_multiplier": 0.125,
    "head_channels": 16,
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return pspnet(5, **SMALL)


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


def test_normalizes_pixels(model):
    normalize = keras.Model(model.input, model.get_layer("normalize").output)
    pixels = random_pixels(4, 4)
    expected = (pixels - np.array(SMALL["mean"])) / np.array(SMALL["std"])
    np.testing.assert_allclose(normalize(pixels), expected, atol=1e-5)


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


def test_without_the_auxiliary_head():
    assert sorted(pspnet(5, auxiliary_head=False, **SMALL).output) == ["logits"]


def test_size_of_the_papers_network():
    # ResNet-50 as torchvision has it; four 1x1 of 2048 to 512; 3x3 heads and their classifiers.
    batch_norm = 2
    backbone = 25_557_032 - 2_049_000
    pyramid = 4 * (2048 + batch_norm) * 512
    head = (9 * 4096 + batch_norm) * 512 + (512 + 1) * 19
    auxiliary = (9 * 1024 + batch_norm) * 256 + (256 + 1) * 19
    model = pspnet(19, depth=50, mean=SMALL["mean"], std=SMALL["std"])
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert count == backbone + pyramid + head + auxiliary


def test_scores_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        outputs = pspnet(5, **SMALL)(random_pixels(32, 32))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {logits.dtype for logits in outputs.values()} == {tf.float32}


def test_saved_model_takes_every_size(model, tmp_path):
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    pixels = tf.cast(random_pixels(35, 46, batch=1), tf.float32)
    served = loaded.serve(pixels)["logits"]
    np.testing.assert_allclose(served, model(pixels)["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "argument",
    [
        {"depth": 20},
        {"output_stride": 12},
        {"width_multiplier": 0},
        {"bins": ()},
        {"bins": (1, 1)},
        {"bins": (0, 2)},
        {"bins": tuple(range(1, 100))},
        {"head_channels": 1},
        {"dropout": 1.0},
        {"mean": (1.0, 2.0)},
        {"std": (1.0, 2.0, 0.0)},
    ],
    ids=str,
)
def test_refuses(argument):
    with pytest.raises(ValueError, match="Received: "):
        pspnet(5, **{**SMALL, **argument})


def test_refuses_no_classes():
    with pytest.raises(ValueError, match=r"`num_classes`.* Received: 0"):
        pspnet(0, **SMALL)
