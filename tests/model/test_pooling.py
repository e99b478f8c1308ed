"""Adaptive average pooling against the loop that defines it."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from model.pooling import AdaptiveAveragePooling

PAPER = (1, 2, 3, 6)
BINS = st.just(PAPER) | st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)
SIDE = st.integers(1, 40)
SIZES = [(1, 1), (5, 12), (8, 3), (32, 33)]
"""Some smaller than a bin, some that no bin divides."""


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
    features = np.random.default_rng(height * 100 + width).normal(size=(2, height, width, 3))
    return features.astype(np.float32)


def assert_pooled(pooled, features, bins=PAPER):
    assert len(pooled) == len(bins)
    for b, found in zip(bins, pooled, strict=True):
        np.testing.assert_allclose(found, reference(features, b), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(bins=BINS, height=SIDE, width=SIDE)
def test_equals_the_reference(bins, height, width):
    features = random_features(height, width)
    assert_pooled(AdaptiveAveragePooling(bins)(features), features, bins)


@settings(deadline=None, max_examples=25)
@given(bins=BINS, height=SIDE, width=SIDE)
def test_gradient_spreads_each_average_over_its_region(bins, height, width):
    features = tf.constant(random_features(height, width))
    layer = AdaptiveAveragePooling(bins)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(2, b, b, 3)).astype(np.float32) for b in bins]
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = tf.add_n(
            [tf.reduce_sum(w * p) for w, p in zip(weights, layer(features), strict=True)]
        )
    expected = np.zeros(features.shape)
    for b, weight in zip(bins, weights, strict=True):
        for i, r in enumerate(regions(b, height)):
            for j, c in enumerate(regions(b, width)):
                area = (r.stop - r.start) * (c.stop - c.start)
                expected[:, r, c] += weight[:, i, j, np.newaxis, np.newaxis] / area
    np.testing.assert_allclose(tape.gradient(loss, features), expected, rtol=0, atol=1e-5)


def test_one_trace_serves_every_size():
    layer = AdaptiveAveragePooling(PAPER)
    pool = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    for size in SIZES:
        features = random_features(*size)
        assert_pooled(pool(features), features)
    assert pool.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("size", SIZES)
def test_a_model_of_a_fixed_size_equals_the_reference(size):
    features = random_features(*size)
    inputs = keras.Input([*size, 3])
    model = keras.Model(inputs, AdaptiveAveragePooling(PAPER)(inputs))
    assert [tuple(x.shape) for x in model.outputs] == [(None, b, b, 3) for b in PAPER]
    assert_pooled(model(features), features)
    assert_pooled(model.predict_on_batch(features), features)


def test_a_saved_model_equals_the_reference_at_every_size(tmp_path):
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, AdaptiveAveragePooling(PAPER)(inputs))
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    for size in SIZES:
        features = random_features(*size)
        assert_pooled(served.serve(features), features)


def lite_interpreter(height, width):
    """The pyramid in LiteRT, of built-in operations alone: others would not be converted."""
    pool = tf.function(
        AdaptiveAveragePooling(PAPER), input_signature=[tf.TensorSpec([2, height, width, 3])]
    )
    frozen = convert_variables_to_constants_v2(pool.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return tf.lite.Interpreter(model_content=converter.convert())


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(
    ("converted", "size"), [((32, 33), (32, 33)), ((5, 4), (5, 4)), ((None, None), (32, 33))]
)
def test_litert_equals_the_reference(converted, size):
    features = random_features(*size)
    interpreter = lite_interpreter(*converted)
    (given_to,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given_to["index"], features.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given_to["index"], features)
    interpreter.invoke()
    pooled = [interpreter.get_tensor(found["index"]) for found in interpreter.get_output_details()]
    assert_pooled(sorted(pooled, key=lambda found: found.shape[1]), features)


@pytest.mark.parametrize("bins", [(), (1, 0)])
def test_refuses_bins(bins):
    with pytest.raises(ValueError, match=r"`bins`.* Received: "):
        AdaptiveAveragePooling(bins)
