"""FCN's scores are sums of the stages' scores."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.fcn import fcn8s, fcn32s
from model.features import Features

CHANNELS = (4, 6, 8, 10, 12)


def test_sizes_are_those_of_the_score_layers(decoder_alone, trainable_size):
    assert trainable_size(decoder_alone(fcn32s)) == (2048 + 1) * 19
    assert trainable_size(decoder_alone(fcn8s)) == (512 + 1024 + 2048 + 3) * 19


@pytest.mark.parametrize("sizes", [[(9, 6), (5, 3), (3, 2)], [(9, 6)] * 3], ids=str)
def test_scores_are_the_sum_of_three_resized(decoder_alone, sizes):
    model = decoder_alone(fcn8s, CHANNELS)
    rng = np.random.default_rng(0)
    features = Features(
        *(
            rng.normal(size=(2, *size, channels)).astype(np.float32)
            for size, channels in zip([(35, 23), (18, 12), *sizes], CHANNELS, strict=True)
        )
    )
    names = ("head_stage2_classes", "head_stage3_classes", "head_classes")
    fine, middle, coarse = (
        # A 1x1 convolution is a product over the channels.
        x @ model.get_layer(name).kernel.numpy()[0, 0] + model.get_layer(name).bias.numpy()
        for x, name in zip(features[2:], names, strict=True)
    )
    expected = fine + tf.image.resize(middle + tf.image.resize(coarse, sizes[1]), sizes[0])
    np.testing.assert_allclose(model(features), expected, rtol=1e-4, atol=1e-6)


def test_dropout_is_on_stage_4_alone(decoder_alone):
    model = decoder_alone(fcn8s, CHANNELS, dropout=0.5)
    rates = {
        layer.name: layer.rate
        for layer in model.layers
        if isinstance(layer, keras.layers.SpatialDropout2D)
    }
    assert rates.pop("head_dropout") == 0.5
    assert set(rates.values()) == {0.0}
