"""Atrous spatial pyramid pooling: its size, and how far each of its branches reaches."""

import keras
import numpy as np
import pytest

from model.deeplabv3 import atrous_spatial_pyramid, deeplabv3


def test_size_is_the_papers(decoder_alone, trainable_size):
    # 1x1, three 3x3 and the pooled 1x1, of 2048 to 256; 1x1 of the five; the classifier.
    batch_norm = 2
    pyramid = (2 * (2048 + batch_norm) + 3 * (9 * 2048 + batch_norm)) * 256
    project = (5 * 256 + batch_norm) * 256
    model = decoder_alone(deeplabv3)
    assert trainable_size(model) == pyramid + project + (256 + 1) * 19


def branch(layer, output_stride, atrous_rates=(6, 12, 18)):
    x = keras.Input([None, None, 2])
    pyramid = keras.Model(x, atrous_spatial_pyramid(x, output_stride, atrous_rates, 4))
    return keras.Model(x, pyramid.get_layer(layer).output)


def impulse(size):
    """Features that are 0 but for one in the middle."""
    features = np.zeros((1, size, size, 2), np.float32)
    features[0, size // 2, size // 2] = 1
    return features


@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize(
    ("output_stride", "rates"),
    # Published for 16 and 8; at 32 the same distances in pixels.
    [(16, (6, 12, 18)), (8, (12, 24, 36)), (32, (3, 6, 9))],
)
def test_an_impulse_answers_at_the_rate_and_nowhere_else(index, output_stride, rates):
    response = branch(f"aspp_atrous{index}", output_stride)(impulse(75)).numpy()
    rate = rates[index - 1]
    reached = np.argwhere(np.abs(response[0]).max(axis=-1) > 0) - 75 // 2
    steps = (-rate, 0, rate)
    assert {tuple(offset) for offset in reached} == {(dy, dx) for dy in steps for dx in steps}


def test_the_average_reaches_everywhere():
    response = branch("aspp_pool_resize", 16)(impulse(75)).numpy()
    assert np.abs(response).max() > 0
    np.testing.assert_allclose(response, np.broadcast_to(response[:, :1, :1], response.shape))


def test_a_rate_is_at_least_1():
    assert branch("aspp_atrous1", 32, atrous_rates=(1,)).get_layer(
        "aspp_atrous1"
    ).dilation_rate == (1, 1)


@pytest.mark.parametrize(
    "option", [{"atrous_rates": ()}, {"atrous_rates": (6, 0)}, {"head_channels": 0}], ids=str
)
def test_refuses(decoder_alone, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"`{name}`.* Received: "):
        decoder_alone(deeplabv3, **option)
