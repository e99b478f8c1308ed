"""The article's network, as it was published, for every size."""

import numpy as np
import pytest
import tensorflow as tf

from model.article import article, article_classes


@pytest.fixture(scope="module")
def model():
    return article()


@pytest.mark.parametrize("size", [(16, 24), (13, 9)])
def test_colors_have_the_size_of_the_pixels(model, size):
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    colors = model(pixels)["colors"]
    assert colors.shape == (1, *size, 3)
    assert colors.dtype == tf.float32
    assert np.min(colors) >= 0
    assert np.max(colors) <= 1


def kernels(outputs=3):
    """(side, channels in, channels out) of every convolution, from the article's text."""
    channels_in = 3
    for first, second, third in [(32, 32, 64), (64, 64, 128), (128, 128, 256)]:
        yield from [(1, channels_in, first), (3, first, second), (1, second, third)]
        yield 3, channels_in, third
        channels_in = third
    yield from [(1, 256, 64)] * 4
    yield 3, 512, outputs


def parameters(outputs):
    weights = sum(side * side * before * after + after for side, before, after in kernels(outputs))
    normalized = sum(f1 + f2 + 2 * f3 for f1, f2, f3 in [(32, 32, 64), (64, 64, 128)])
    normalized += 128 + 128 + 2 * 256 + outputs
    return weights + 4 * normalized


def test_parameters(model):
    assert model.count_params() == parameters(3)
    assert article_classes(19).count_params() == parameters(19)


def test_with_classes_it_is_the_same_network_up_to_its_last_layer(model):
    classes = article_classes(3)
    classes.set_weights(model.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 12, 10, 3), np.uint8)
    logits = classes(pixels)["logits"]
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(tf.sigmoid(logits), model(pixels)["colors"], atol=1e-6)


def test_refuses_no_classes():
    with pytest.raises(ValueError, match=r"`num_classes`.* Received: 0"):
        article_classes(0)


def test_dilation_is_in_the_middle_of_each_block(model):
    dilated = [layer.name for layer in model.layers if getattr(layer, "dilation_rate", 1) == (2, 2)]
    assert dilated == ["block1_conv2", "block2_conv2", "block3_conv2"]


def test_one_trace_with_unknown_sizes_equals_eager(model):
    traced = tf.function(
        lambda pixels: model(pixels, training=False),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
    )
    for size in [(16, 16), (11, 21)]:
        pixels = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
        np.testing.assert_allclose(
            traced(pixels)["colors"], model(pixels, training=False)["colors"], atol=1e-5
        )
