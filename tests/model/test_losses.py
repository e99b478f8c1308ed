"""Objectives against their formulas, and what void pixels must not do."""

import math

import numpy as np
import pytest
import tensorflow as tf

from model.losses import IGNORE_LABEL, ColorRegression, CrossEntropy, cross_entropy, hard_pixels

CLASS_COLORS = np.array([[128, 64, 128], [0, 0, 142], [0, 0, 143], [255, 255, 255]], np.uint8)
SHAPE = (2, 5, 6)

CASES = [
    (CrossEntropy(), {"logits": 4, "auxiliary_logits": 4}),
    (CrossEntropy(), {"logits": 4}),
    (ColorRegression(CLASS_COLORS), {"colors": 3}),
]
IDS = ["cross entropy", "cross entropy, one head", "color regression"]
ALL_CASES = [
    *CASES,
    (CrossEntropy(ohem_threshold=0.25, ohem_min_kept=0.5), {"logits": 4, "auxiliary_logits": 4}),
]
ALL_IDS = [*IDS, "hard pixels"]


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


def numpy_cross_entropy(logits, labels):
    """Of each pixel, float64 [B, H, W]; NaN where void."""
    logits = logits.numpy().astype(np.float64)
    losses = np.full(labels.shape, np.nan)
    for at, label in np.ndenumerate(labels):
        if label != IGNORE_LABEL:
            losses[at] = np.log(np.exp(logits[at]).sum()) - logits[at][label]
    return losses


def test_cross_entropy_is_its_formula():
    outputs, labels = random_outputs(CASES[0][1]), random_labels()
    losses, counts = CrossEntropy(auxiliary_weight=0.3).loss(outputs, labels)
    expected = [
        weight * np.nansum(numpy_cross_entropy(outputs[name], labels))
        for name, weight in (("logits", 1), ("auxiliary_logits", 0.3))
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(counts, [(labels != IGNORE_LABEL).sum()] * 2)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_cross_entropy_and_its_gradient_are_tensorflows(size):
    rng = np.random.default_rng(2)
    logits = tf.constant(rng.normal(scale=size, size=(*SHAPE, 7)), tf.float32)
    labels = tf.constant(rng.integers(0, 7, SHAPE), tf.int32)
    upstream = tf.constant(rng.uniform(size=SHAPE), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        found = cross_entropy(logits, labels)
        expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [tape.gradient(losses, logits, upstream) for losses in (found, expected)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)
    assert np.abs(gradients[0]).max() > 0.1


def numpy_hard(losses, threshold, min_kept):
    """One picture's sum and number of hard pixels, by going down the sorted losses."""
    ranked = sorted(losses[~np.isnan(losses)].ravel(), reverse=True)
    least = max(1, math.ceil(min_kept * len(ranked)))
    kept = [loss for i, loss in enumerate(ranked) if i < least or np.exp(-loss) <= threshold]
    return sum(kept), len(kept)


@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.2, 0.0), (0.25, 0.25), (0.25, 0.75), (1e-6, 0.5), (0.99, 0.125)]
)
def test_hard_pixels_are_their_formula(threshold, min_kept):
    outputs, labels = random_outputs(CASES[0][1]), random_labels()
    labels[1, :, 2:] = IGNORE_LABEL  # the shares are of the valid pixels
    objective = CrossEntropy(0.3, ohem_threshold=threshold, ohem_min_kept=min_kept)
    losses, counts = objective.loss(outputs, labels)
    for i, (name, weight) in enumerate((("logits", 1), ("auxiliary_logits", 0.3))):
        pictures = numpy_cross_entropy(outputs[name], labels)
        sums, numbers = zip(*(numpy_hard(p, threshold, min_kept) for p in pictures), strict=True)
        assert float(losses[i]) == pytest.approx(weight * sum(sums), rel=1e-5)
        assert float(counts[i]) == sum(numbers)


WEIGHTS = [0.25, 1.0, 4.0, 0.0]


def test_class_weights_are_those_of_the_formula():
    outputs, labels = random_outputs({"logits": 4}), random_labels()
    labels = np.where(labels == 3, 255, labels)
    (loss,), (count,) = CrossEntropy(class_weights=WEIGHTS).loss(outputs, labels)
    logits = outputs["logits"].numpy().astype(np.float64) + np.log([0.25, 1.0, 4.0, 1.0])
    log_shares = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    valid = labels != 255
    truth = labels[valid].astype(int)
    weights = np.take(WEIGHTS, truth)
    expected = -(weights * log_shares[valid][np.arange(len(truth)), truth]).sum()
    np.testing.assert_allclose(np.sum(loss), expected, rtol=1e-5)
    np.testing.assert_allclose(np.sum(count), weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_is_least_at_the_true_shares_whatever_the_weights(weights):
    labels = np.repeat([0, 1, 2], [60, 30, 10]).astype(np.uint8).reshape(1, 10, 10)
    # The last class never occurs; of the weights it has none.
    logits = tf.Variable(np.log([0.6, 0.3, 0.1, 1e-12]), dtype=tf.float32)
    with tf.GradientTape() as tape:
        outputs = {"logits": tf.broadcast_to(logits, [1, 10, 10, 4])}
        losses, counts = CrossEntropy(class_weights=weights).loss(outputs, labels)
        loss = tf.reduce_sum(losses) / tf.reduce_sum(counts)
    np.testing.assert_allclose(tape.gradient(loss, logits), 0, atol=1e-6)


def test_smoothed_labels_leave_the_same_pixels_hard():
    outputs, labels = random_outputs(CASES[0][1]), random_labels()
    outputs["logits"] *= 10  # some pixels are sure of the truth, some far from it
    plain, smoothed = (
        CrossEntropy(label_smoothing=share, ohem_threshold=0.7, ohem_min_kept=0.0)
        for share in (0.0, 0.1)
    )
    count = float(plain.loss(outputs, labels)[1][0])
    losses, counts = smoothed.loss(outputs, labels)
    assert float(counts[0]) == count
    assert 0 < count < (labels != IGNORE_LABEL).sum()
    truth = numpy_cross_entropy(outputs["logits"], labels)
    hard = truth >= -np.log(0.7)
    logits = outputs["logits"].numpy().astype(np.float64)
    log_sums = np.log(np.exp(logits).sum(-1))
    spread = 0.9 * truth + 0.1 * (log_sums - logits.mean(-1))
    assert float(losses[0]) == pytest.approx(spread[hard].sum(), rel=1e-5)


def test_each_head_has_hard_pixels_of_its_own():
    labels = np.zeros((1, 1, 4), np.uint8)
    logits = np.zeros((1, 1, 4, 2), np.float32)
    logits[..., 0] = [[5, 5, 0, 0]]
    outputs = {"logits": tf.constant(logits), "auxiliary_logits": tf.constant(logits[:, :, ::-1])}
    objective = CrossEntropy(1.0, ohem_threshold=0.6, ohem_min_kept=0.0)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = tf.reduce_sum(objective.loss(outputs, labels)[0])
    moved = {name: np.abs(g[0, 0]).sum(-1) > 0 for name, g in tape.gradient(loss, outputs).items()}
    np.testing.assert_array_equal(moved["logits"], [False, False, True, True])
    np.testing.assert_array_equal(moved["auxiliary_logits"], [True, True, False, False])


def test_of_equally_hard_pixels_all_are_kept():
    losses = tf.constant([[[1.0, 3.0, 2.0, 2.0, 2.0, 2.0]]])
    kept = hard_pixels(losses, tf.ones_like(losses, tf.bool), 1e-9, 2 / 6)
    np.testing.assert_array_equal(kept, [[[False, True, True, True, True, True]]])


def test_a_picture_without_a_valid_pixel_keeps_none_and_does_not_touch_others():
    losses = tf.constant([[[1.0, 2.0]], [[3.0, 4.0]]])
    valid = tf.constant([[[False, False]], [[True, True]]])
    kept = hard_pixels(losses, valid, 1e-9, 0.5)
    np.testing.assert_array_equal(kept, [[[False, False]], [[False, True]]])


def test_threshold_1_is_plain_cross_entropy():
    outputs, labels = random_outputs(CASES[0][1]), random_labels()
    outputs["logits"] *= 1000  # probabilities of exactly 1 and 0
    plain = CrossEntropy().loss(outputs, labels)
    np.testing.assert_array_equal(CrossEntropy(ohem_threshold=1.0).loss(outputs, labels), plain)


def test_a_loss_that_is_no_number_is_not_hidden():
    outputs = {"logits": tf.fill([*SHAPE, 4], np.nan)}
    loss, count = CrossEntropy(ohem_threshold=0.7).loss(outputs, random_labels())
    assert np.isnan(loss)
    assert count > 0


def test_color_regression_is_its_formula():
    outputs, labels = random_outputs({"colors": 3}), random_labels()
    expected = sum(
        np.mean((outputs["colors"].numpy()[at] - CLASS_COLORS[label] / 255) ** 2)
        for at, label in np.ndenumerate(labels)
        if label != IGNORE_LABEL
    )
    loss, count = ColorRegression(CLASS_COLORS).loss(outputs, labels)
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)
    np.testing.assert_array_equal(count, [(labels != IGNORE_LABEL).sum()])


@pytest.mark.parametrize(("objective", "channels"), CASES, ids=IDS)
def test_void_pixels_have_no_gradient_and_others_do(objective, channels):
    outputs, labels = random_outputs(channels), random_labels()
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss, _ = objective.loss(outputs, labels)
    for gradient in tape.gradient(loss, outputs).values():
        moved = np.abs(gradient).sum(axis=-1) > 0
        np.testing.assert_array_equal(moved, labels != IGNORE_LABEL)


@pytest.mark.parametrize(("objective", "channels"), ALL_CASES, ids=ALL_IDS)
def test_without_a_valid_pixel_everything_is_zero(objective, channels):
    outputs = random_outputs(channels)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss, count = objective.loss(outputs, np.full(SHAPE, IGNORE_LABEL, np.uint8))
    assert not np.any(loss)
    assert not np.any(count)
    for gradient in tape.gradient(loss, outputs).values():
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize(("objective", "channels"), ALL_CASES, ids=ALL_IDS)
def test_sums_of_parts_add_up(objective, channels):
    outputs, labels = random_outputs(channels), random_labels()
    whole = objective.loss(outputs, labels)
    parts = [
        objective.loss({k: v[i : i + 1] for k, v in outputs.items()}, labels[i : i + 1])
        for i in range(2)
    ]
    np.testing.assert_allclose(whole, np.sum(parts, axis=0), rtol=1e-5)


@pytest.mark.parametrize(("objective", "channels"), ALL_CASES, ids=ALL_IDS)
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
    with pytest.raises(ValueError, match=r"`ohem_threshold`.* Received: 1.5"):
        CrossEntropy(ohem_threshold=1.5)
    with pytest.raises(ValueError, match=r"`ohem_min_kept`.* Received: -0.5"):
        CrossEntropy(ohem_min_kept=-0.5)
    with pytest.raises(ValueError, match=r"`class_colors`.* Received: \(4,\)"):
        ColorRegression([1, 2, 3, 4])
