"""What a network is trained for, and how its outputs are read as scores of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

IGNORE_LABEL = 255
"""Label of the pixels that neither train nor count."""


class Objective(Protocol):
    """A loss and the reading of the outputs that belongs to it.

    The loss comes as a sum and a count, not as a mean: void pixels are spread unevenly, so the
    mean over a global batch is (sum over replicas) / (count over replicas), and not the mean of
    the replicas' means.
    """

    def loss(
        self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss summed over the valid pixels, and their number.

        Args:
          outputs: What the network returned, each [B, H, W, ...].
          labels: Train ids, an integer type [B, H, W]; 255 is ignored.

        Returns:
          Two float32 scalars. Without a valid pixel both are 0, and so are all gradients.
        """
        ...

    def scores(self, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The classes' scores, float32 [B, H, W, K]; the greatest is the prediction."""
        ...


def _valid(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where labels are valid, and int32 labels that may be looked up everywhere: 0 if void."""
    labels = tf.cast(labels, tf.int32)
    valid = tf.not_equal(labels, IGNORE_LABEL)
    return valid, tf.where(valid, labels, 0)


def _sum_and_count(per_pixel: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # A float32 counts exactly up to 2**24 pixels: eight Cityscapes pictures a replica.
    return (
        tf.reduce_sum(tf.where(valid, per_pixel, 0.0)),
        tf.reduce_sum(tf.cast(valid, tf.float32)),
    )


class CrossEntropy:
    """Softmax cross-entropy of ``logits``, plus a share of that of ``auxiliary_logits``.

    Reference: Zhao et al. 2017, section 3.3, where the share is 0.4.

    Args:
      auxiliary_weight: The share; it is of no effect on a network without the auxiliary head.

    Raises:
      ValueError: If ``auxiliary_weight`` is negative.
    """

    def __init__(self, auxiliary_weight: float = 0.4) -> None:
        if auxiliary_weight < 0:
            raise ValueError(
                f"`auxiliary_weight` must not be negative. Received: {auxiliary_weight}"
            )
        self.auxiliary_weight = auxiliary_weight

    def loss(
        self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Objective.loss`; a label that is neither a class nor 255 is an error on a CPU."""
        valid, labels = _valid(labels)
        per_pixel = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs["logits"])
        if "auxiliary_logits" in outputs:
            per_pixel += self.auxiliary_weight * tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, outputs["auxiliary_logits"]
            )
        return _sum_and_count(per_pixel, valid)

    def scores(self, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The classes' probabilities, float32 [B, H, W, K]."""
        return tf.nn.softmax(outputs["logits"])


class ColorRegression:
    """Mean squared error of ``colors`` against the colour of the pixel's class, in 0 to 1.

    Args:
      class_colors: Colour of each class, RGB in 0 to 255, [K, 3].

    Raises:
      ValueError: If ``class_colors`` has another shape.
    """

    def __init__(self, class_colors: npt.ArrayLike) -> None:
        self.class_colors = np.asarray(class_colors, np.float32) / 255
        if self.class_colors.ndim != 2 or self.class_colors.shape[1] != 3:
            raise ValueError(
                f"`class_colors` must have the shape [K, 3]. Received: {self.class_colors.shape}"
            )

    def loss(
        self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Objective.loss`; a label that is neither a class nor 255 is an error on a CPU."""
        valid, labels = _valid(labels)
        truth = tf.gather(self.class_colors, labels)
        per_pixel = tf.reduce_mean(tf.math.squared_difference(outputs["colors"], truth), axis=-1)
        return _sum_and_count(per_pixel, valid)

    def scores(self, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Minus the squared distance to each class's colour, float32 [B, H, W, K]."""
        # Channel by channel, for [B, H, W, K, 3] would be large; not by a matrix product, which
        # a GPU may compute with too few digits (TF32) to tell close colours apart.
        colors: Any = outputs["colors"]
        return -tf.add_n(
            [
                tf.math.squared_difference(colors[..., c : c + 1], self.class_colors[:, c])
                for c in range(3)
            ]
        )
