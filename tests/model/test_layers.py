"""Layers against those of Keras, resizing against its formulas and TensorFlow's own."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import layers
from model.layers import ResizeLike

TARGETS = [(13, 8), (3, 20), (1, 1), (4, 5), (7, 1), (2, 2)]


def interpolation_matrix(source, target, align_corners):
    matrix = np.zeros((target, source))
    for i in range(target):
        if align_corners:
            position = i * (source - 1) / (target - 1) if target > 1 else 0
        else:
            position = (i + 0.5) * source / target - 0.5
        position = min(max(position, 0), source - 1)
        below = int(position)
        above = min(below + 1, source - 1)
        matrix[i, below] += 1 - (position - below)
        matrix[i, above] += position - below
    return matrix


def features_and_matrices(source, target, align_corners):
    features = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
    sizes = zip(source, target, strict=True)
    return features, [interpolation_matrix(s, t, align_corners) for s, t in sizes]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("source", [(4, 5), (1, 6), (1, 1)])
@pytest.mark.parametrize("target", TARGETS)
def test_resizes_bilinearly(source, target, align_corners):
    features, (rows, columns) = features_and_matrices(source, target, align_corners)
    reference = np.zeros((2, *target, 1), np.float32)
    resized = ResizeLike(align_corners)([features, reference])
    expected = np.einsum("ij,bjkc,lk->bilc", rows, features, columns)
    np.testing.assert_allclose(resized, expected, atol=1e-5)
    if align_corners:
        by_tensorflow = tf.compat.v1.image.resize_bilinear(features, target, align_corners=True)
    else:
        by_tensorflow = tf.image.resize(features, target)
    np.testing.assert_array_equal(resized, by_tensorflow)


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradients_are_the_transposed_matrices(align_corners):
    features, (rows, columns) = features_and_matrices((4, 5), (13, 8), align_corners)
    upstream = np.random.default_rng(1).normal(size=(2, 13, 8, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        inputs = tf.constant(features)
        tape.watch(inputs)
        resized = ResizeLike(align_corners)([inputs, upstream])
    expected = np.einsum("ij,bilc,lk->bjkc", rows, upstream, columns)
    gradient = tape.gradient(resized, inputs, output_gradients=upstream)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_aligned_corners_in_a_saved_model_of_unknown_sizes(tmp_path):
    module, layer = tf.Module(), ResizeLike(align_corners=True)
    spec = tf.TensorSpec([None, None, None, 3], tf.float32)
    module.resize = tf.function(lambda x, y: layer([x, y]), input_signature=[spec, spec])
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    for target in TARGETS:
        features, (rows, columns) = features_and_matrices((4, 5), target, True)
        resized = loaded.resize(features, np.zeros((2, *target, 3), np.float32))
        expected = np.einsum("ij,bjkc,lk->bilc", rows, features, columns)
        np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_aligned_corners_survive_litert():
    inputs = keras.Input([4, 5, 3], batch_size=2), keras.Input([13, 8, 1], batch_size=2)
    model = keras.Model(inputs, ResizeLike(align_corners=True)(list(inputs)))
    function = tf.function(lambda x, y: model([x, y])).get_concrete_function(
        *(tf.TensorSpec(x.shape, tf.float32) for x in inputs)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    features, (rows, columns) = features_and_matrices((4, 5), (13, 8), True)
    for details in interpreter.get_input_details():
        shape = tuple(details["shape"])
        value = features if shape == features.shape else np.zeros(shape, np.float32)
        interpreter.set_tensor(details["index"], value)
    interpreter.invoke()
    resized = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = np.einsum("ij,bjkc,lk->bilc", rows, features, columns)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("rate", "kernel_size", "padding"), [(2, 3, "same"), (4, 3, "valid"), (3, 5, "same")]
)
def test_dilated_convolution_is_that_of_keras(rate, kernel_size, padding, native, monkeypatch):
    if not native:
        monkeypatch.setattr(layers, "_differentiates_dilation", lambda: False)
    rng = np.random.default_rng(0)
    options = {"dilation_rate": rate, "padding": padding}
    ours = layers.Conv2D(5, kernel_size, **options)
    theirs = keras.layers.Conv2D(5, kernel_size, **options)
    x = tf.constant(rng.normal(size=(2, 17, 14, 3)), tf.float32)
    theirs.build(x.shape)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    results = (_values_and_gradients(layer, x) for layer in (ours, theirs))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_cpu_without_onednn_differentiates_dilation_the_other_way():
    script = (
        "import tensorflow as tf\n"
        "from model import layers\n"
        "conv = layers.Conv2D(2, 3, dilation_rate=2, padding='same')\n"
        "with tf.GradientTape() as tape:\n"
        "    loss = tf.reduce_sum(conv(tf.ones([1, 5, 5, 1])))\n"
        "assert tape.gradient(loss, conv.kernel.value).shape == (3, 3, 1, 2)\n"
        "assert not layers._differentiates_dilation()\n"
    )
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@pytest.mark.parametrize("mode", ["training", "frozen", "inference"])
def test_batch_normalization_is_that_of_keras(mode):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(1, 3, (3, 5, 7, 4)), tf.float32)
    norms = layers.BatchNormalization(momentum=0.7), keras.layers.BatchNormalization(momentum=0.7)
    weights = [rng.uniform(0.5, 2, 4) for _ in range(4)]
    results = []
    for norm in norms:
        norm.build(x.shape)
        norm.set_weights(weights)
        norm.trainable = mode != "frozen"
        results.append([*_values_and_gradients(norm, x, mode != "inference"), *norm.get_weights()])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def _values_and_gradients(layer, x, training=True):
    """The outputs, and the gradients of the sum of their squares by input and weights."""
    weights = [weight.value for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(y**2)
    return [y, *tape.gradient(loss, [x, *weights])]


def test_dropout_drops_whole_channels_of_each_example_by_itself():
    keras.utils.set_random_seed(3)
    dropout = layers.ChannelDropout(0.25)
    inputs = np.random.default_rng(0).uniform(1, 2, (64, 3, 2, 128)).astype(np.float32)
    first, second = (np.array(dropout(inputs, training=True)) for _ in range(2))
    for outputs in (first, second):
        kept = outputs[:, :1, :1] > 0
        np.testing.assert_allclose(outputs, np.where(kept, inputs / 0.75, 0), rtol=1e-6)
        assert 1 - kept.mean() == pytest.approx(0.25, abs=0.02)
        assert len(np.unique(kept.reshape(64, -1), axis=0)) == 64
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(dropout(inputs, training=False), inputs)
    np.testing.assert_array_equal(layers.ChannelDropout(0.0)(inputs, training=True), inputs)
