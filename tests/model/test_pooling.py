"""Adaptive average pooling against the loop that defines it."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model.pooling import AdaptiveAveragePooling

BINS = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)
SIDE = st.integers(1, 13)


def regions(bins, size):
    return [
        slice(math.floor(i * size / bins), math.ceil((i + 1) * size / bins)) for i in range(bins)
    ]


def reference(features, bins):
    _, height, width, _ = features.shape
    return np.stack(
        [
            np.stack([features[:, r, c].mean(axis=(1, 2)) for c in regions(bins, width)], axis=1)
            for r in regions(bins, height)
        ],
        axis=1,
    )


def random_features(height, width):
    return np.random.default_rng(height * 100 + width).normal(size=(2, height, width, 3))


@settings(deadline=None, max_examples=50)
@given(bins=BINS, height=SIDE, width=SIDE)
def test_equals_the_reference(bins, height, width):
    features = random_features(height, width).astype(np.float32)
    pooled = AdaptiveAveragePooling(bins)(features)
    assert len(pooled) == len(bins)
    for b, actual in zip(bins, pooled, strict=True):
        np.testing.assert_allclose(actual, reference(features, b), atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(bins=BINS, height=SIDE, width=SIDE)
def test_gradient_spreads_each_average_over_its_region(bins, height, width):
    features = tf.constant(random_features(height, width), tf.float32)
    layer = AdaptiveAveragePooling(bins)
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = tf.add_n([tf.reduce_sum(pooled) for pooled in layer(features)])
    expected = np.zeros(features.shape)
    for b in bins:
        for r in regions(b, height):
            for c in regions(b, width):
                expected[:, r, c] += 1 / ((r.stop - r.start) * (c.stop - c.start))
    np.testing.assert_allclose(tape.gradient(loss, features), expected, atol=1e-5)


def test_one_trace_serves_every_size():
    layer = AdaptiveAveragePooling((1, 2, 3, 6))
    pool = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    for height, width in [(1, 1), (5, 12), (8, 3)]:
        features = random_features(height, width).astype(np.float32)
        for b, actual in zip(layer.bins, pool(features), strict=True):
            np.testing.assert_allclose(actual, reference(features, b), atol=1e-5)
    assert pool.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("bins", [(), (1, 0)])
def test_refuses_bins(bins):
    with pytest.raises(ValueError, match=r"`bins`.* Received: "):
        AdaptiveAveragePooling(bins)
