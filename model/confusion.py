"""Counts which class was taken for which, in TensorFlow; `model.metrics` reads the counts."""

from __future__ import annotations

import tensorflow as tf

from model.losses import IGNORE_LABEL


def confusion_matrix(labels: tf.Tensor, predictions: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Counts the pairs of true and predicted class, leaving out ignored pixels.

    Counts of parts of a data set add up to the counts of the whole.

    Args:
      labels: Train ids, an integer type of any shape; 255 is ignored.
      predictions: Predicted train ids, an integer type of the same shape.
      num_classes: Number of classes, K.

    Returns:
      int64 [K, K], rows for the truth, columns for the prediction.

    Raises:
      tf.errors.InvalidArgumentError: If another label or prediction is not one of K classes.
    """
    valid = tf.not_equal(tf.cast(labels, tf.int32), IGNORE_LABEL)
    return tf.math.confusion_matrix(
        tf.boolean_mask(labels, valid),
        tf.boolean_mask(predictions, valid),
        num_classes,
        dtype=tf.int64,
    )
