"""Confusion matrix and metrics against counting pixel by pixel."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model import metrics
from model.confusion import confusion_matrix

K = 4
LABELS = st.sampled_from([*range(K), 255])


@st.composite
def labels_and_predictions(draw):
    shape = (2, draw(st.integers(0, 4)), draw(st.integers(1, 5)))
    labels = draw(arrays(np.uint8, shape, elements=LABELS))
    return labels, draw(arrays(np.int64, shape, elements=st.integers(0, K - 1)))


def reference_matrix(labels, predictions):
    matrix = np.zeros((K, K), np.int64)
    for truth, prediction in zip(labels.flat, predictions.flat, strict=True):
        if truth != 255:
            matrix[truth, prediction] += 1
    return matrix


def ratio(part, whole):
    return part / whole if whole else np.nan


def mean(values):
    defined = [value for value in values if not np.isnan(value)]
    return ratio(sum(defined), len(defined))


@settings(deadline=None, max_examples=50)
@given(labels_and_predictions())
def test_confusion_matrix_counts_pixels(pair):
    matrix = confusion_matrix(*pair, K)
    assert matrix.dtype == tf.int64
    np.testing.assert_array_equal(matrix, reference_matrix(*pair))


@settings(deadline=None, max_examples=200)
@given(labels_and_predictions())
def test_metrics_are_their_definitions(pair):
    labels, predictions = pair
    valid = labels != 255
    truths = [valid & (labels == k) for k in range(K)]
    guesses = [valid & (predictions == k) for k in range(K)]
    ious = [ratio((t & g).sum(), (t | g).sum()) for t, g in zip(truths, guesses, strict=True)]
    accuracies = [ratio((t & g).sum(), t.sum()) for t, g in zip(truths, guesses, strict=True)]

    matrix = reference_matrix(labels, predictions)
    np.testing.assert_allclose(metrics.iou_per_class(matrix), ious)
    np.testing.assert_allclose(metrics.accuracy_per_class(matrix), accuracies)
    np.testing.assert_allclose(metrics.mean_iou(matrix), mean(ious))
    np.testing.assert_allclose(metrics.class_accuracy(matrix), mean(accuracies))
    np.testing.assert_allclose(
        metrics.pixel_accuracy(matrix), ratio((labels == predictions).sum(), valid.sum())
    )


def test_absent_classes_are_left_out_and_false_alarms_are_not():
    # Class 0 half right; class 1 only where it is not; class 2 nowhere.
    matrix = np.array([[2, 2, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(metrics.iou_per_class(matrix), [0.5, 0.0, np.nan])
    assert metrics.mean_iou(matrix) == 0.25
    assert metrics.class_accuracy(matrix) == 0.5
    assert metrics.pixel_accuracy(matrix) == 0.5


def test_traces_once_for_all_sizes():
    count = tf.function(
        lambda labels, predictions: confusion_matrix(labels, predictions, K),
        input_signature=[tf.TensorSpec([None, None, None], tf.uint8)] * 2,
    )
    ones = np.ones((1, 3, 5), np.uint8)
    assert count(ones, ones).numpy()[1, 1] == 15
    assert count(ones * 255, ones).numpy().sum() == 0


@pytest.mark.parametrize(("label", "prediction"), [(K, 0), (0, K)])
def test_refuses_what_is_not_a_class(label, prediction):
    with pytest.raises(tf.errors.InvalidArgumentError):
        confusion_matrix(np.array([label]), np.array([prediction]), K)


def test_metrics_need_no_tensorflow():
    command = "import sys, model.metrics; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True)
