"""Objectives against their formulas, and what void pixels must not do."""

import numpy as np
import pytest
import tensorflow as tf

from model.losses import IGNORE_LABEL, ColorRegression, CrossEntropy

CLASS_COLORS = np.array([[128, 64, 128], [0, 0, 142], [0, 0, 143], [255, 255, 255]], np.uint8)
SHAPE = (2, 5, 6)

CASES = [
    (CrossEntropy(), {"logits": 4, "auxiliary_logits": 4}),
    (CrossEntropy(), {"logits": 4}),
    (ColorRegression(CLASS_COLORS), {"colors": 3}),
]
IDS = ["cross entropy", "cross entropy, one head", "color regression"]


def random_outputs(channels):
    rng = np.random.default_rng(0)
    return {
        name: tf.constant(rng.uniform(size=(*SHAPE, depth)), tf.float32)
        for name, depth in channels.items()
    }


def random_labels(void=0.3):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, SHAPE)
    return np.where(rng.uniform(size=SHAPE) < void, IGNORE_LABEL, labels).astype(np.uint8)


def test_cross_entropy_is_its_formula():
    outputs, labels = random_outputs(CASES[0][1]), random_labels()

    def sum_of(logits):
        logits = logits.numpy().astype(np.float64)
        log_sum = np.log(np.exp(logits).sum(axis=-1))
        return sum(
            log_sum[at] - logits[at][label]
            for at, label in np.ndenumerate(labels)
            if label != IGNORE_LABEL
        )

    loss, count = CrossEntropy(auxiliary_weight=0.3).loss(outputs, labels)
    expected = sum_of(outputs["logits"]) + 0.3 * sum_of(outputs["auxiliary_logits"])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(count) == (labels != IGNORE_LABEL).sum()


def test_color_regression_is_its_formula():
    outputs, labels = random_outputs({"colors": 3}), random_labels()
    expected = sum(
        np.mean((outputs["colors"].numpy()[at] - CLASS_COLORS[label] / 255) ** 2)
        for at, label in np.ndenumerate(labels)
        if label != IGNORE_LABEL
    )
    loss, count = ColorRegression(CLASS_COLORS).loss(outputs, labels)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(count) == (labels != IGNORE_LABEL).sum()


@pytest.mark.parametrize(("objective", "channels"), CASES, ids=IDS)
def test_void_pixels_have_no_gradient_and_others_do(objective, channels):
    outputs, labels = random_outputs(channels), random_labels()
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss, _ = objective.loss(outputs, labels)
    for gradient in tape.gradient(loss, outputs).values():
        moved = np.abs(gradient).sum(axis=-1) > 0
        np.testing.assert_array_equal(moved, labels != IGNORE_LABEL)


@pytest.mark.parametrize(("objective", "channels"), CASES, ids=IDS)
def test_without_a_valid_pixel_everything_is_zero(objective, channels):
    outputs = random_outputs(channels)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss, count = objective.loss(outputs, np.full(SHAPE, IGNORE_LABEL, np.uint8))
    assert float(loss) == 0
    assert float(count) == 0
    for gradient in tape.gradient(loss, outputs).values():
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize(("objective", "channels"), CASES, ids=IDS)
def test_sums_of_parts_add_up(objective, channels):
    outputs, labels = random_outputs(channels), random_labels()
    whole = objective.loss(outputs, labels)
    parts = [
        objective.loss({k: v[i : i + 1] for k, v in outputs.items()}, labels[i : i + 1])
        for i in range(2)
    ]
    np.testing.assert_allclose(whole, np.sum(parts, axis=0), rtol=1e-5)


@pytest.mark.parametrize(("objective", "channels"), CASES, ids=IDS)
def test_bytes_and_int32_are_the_same_labels(objective, channels):
    outputs, labels = random_outputs(channels), random_labels()
    as_bytes = objective.loss(outputs, labels)
    as_ints = tf.function(objective.loss)(outputs, tf.constant(labels, tf.int32))
    np.testing.assert_allclose(as_bytes, as_ints, rtol=1e-6)


def test_probabilities_sum_to_one():
    scores = CrossEntropy().scores(random_outputs({"logits": 4}))
    np.testing.assert_allclose(tf.reduce_sum(scores, axis=-1), np.ones(SHAPE), rtol=1e-5)


def test_a_class_color_is_read_as_its_class():
    labels = random_labels(void=0)
    colors = tf.constant(CLASS_COLORS[labels] / 255, tf.float32)
    scores = ColorRegression(CLASS_COLORS).scores({"colors": colors})
    np.testing.assert_array_equal(np.argmax(scores, axis=-1), labels)


def test_color_scores_are_squared_distances():
    outputs = random_outputs({"colors": 3})
    expected = -((outputs["colors"].numpy()[..., None, :] - CLASS_COLORS / 255) ** 2).sum(axis=-1)
    scores = ColorRegression(CLASS_COLORS).scores(outputs)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_refuses():
    with pytest.raises(ValueError, match=r"`auxiliary_weight`.* Received: -1"):
        CrossEntropy(-1)
    with pytest.raises(ValueError, match=r"`class_colors`.* Received: \(4,\)"):
        ColorRegression([1, 2, 3, 4])
