"""What a network is trained for, and how its outputs are read as scores of the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

IGNORE_LABEL = 255
"""Label of the pixels that neither train nor count."""


class Objective(Protocol):
    """A loss and the reading of the outputs that belongs to it.

    The loss is a sum of T means, and each comes as a sum and a count: pixels that count are spread
    unevenly, so the mean over a global batch is (sum over replicas) / (count over replicas), and
    not the mean of the replicas' means.
    """

    def loss(
        self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss's terms: summed over the pixels that count for each, and the pixels' numbers.

        Args:
          outputs: What the network returned, each [B, H, W, ...].
          labels: Train ids, an integer type [B, H, W]; 255 is ignored.

        Returns:
          Sums and counts, float32 [T] each. Without a valid pixel both are 0, and so are all
          gradients. Each picture's share in them depends on that picture alone.
          Without hard example mining the counts of all terms are equal.
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


def _sum_and_count(per_pixel: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The weighted sum, and the sum of the weights; a loss of weight 0 may be no number."""
    # A float32 counts exactly up to 2**24 pixels: eight Cityscapes pictures a replica.
    counted = tf.where(weights > 0, weights * per_pixel, 0.0)
    return tf.reduce_sum(counted), tf.reduce_sum(weights)


def hard_pixels(
    per_pixel: tf.Tensor, valid: tf.Tensor, threshold: float, min_kept: float
) -> tf.Tensor:
    """The pixels that online hard example mining keeps, of each picture by itself.

    Kept are the valid pixels whose true class has at most the probability ``threshold``, and at
    least the ceil(min_kept * valid pixels) of greatest loss, with all that are as hard as the
    last of these.

    Args:
      per_pixel: Cross-entropy, float32 [B, H, W].
      valid: Which pixels may be kept, bool [B, H, W].
      threshold: Above 0; 1 keeps every valid pixel.
      min_kept: Share of a picture's valid pixels; at least one is kept, where there is one.

    Returns:
      bool [B, H, W].

    Reference: Shrivastava, Gupta and Girshick, "Training Region-based Object Detectors with Online
    Hard Example Mining", CVPR 2016; for pixels, with both limits, Wu, Shen and van den Hengel,
    "High-performance Semantic Segmentation Using Very Deep Fully Convolutional Networks", 2016.
    """

    def rank(pixels: tf.Tensor) -> tf.Tensor:
        share = tf.math.ceil(min_kept * tf.cast(pixels, tf.float32))
        return tf.maximum(tf.cast(share, tf.int32), 1)

    shape = tf.shape(per_pixel)
    # No loss is negative, so that void pixels come last.
    losses = tf.reshape(tf.where(valid, per_pixel, -1.0), [shape[0], -1])
    hardest = tf.math.top_k(losses, rank(shape[1] * shape[2])).values
    last = rank(tf.math.count_nonzero(valid, axis=[1, 2], dtype=tf.int32)) - 1
    limit = tf.gather(hardest, last, batch_dims=1)
    limit = tf.minimum(limit, -math.log(threshold))
    # So said that a loss that is no number is kept, and told.
    return tf.logical_and(valid, tf.logical_not(per_pixel < limit[:, tf.newaxis, tf.newaxis]))


@tf.custom_gradient
def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Softmax cross-entropy of each pixel, float32 [B, H, W].

    `tf.nn.sparse_softmax_cross_entropy_with_logits` of few classes takes longer on a CPU, where it
    is a good part of a small network's step.

    Args:
      logits: float32 [B, H, W, K].
      labels: int32 [B, H, W], in 0 to K - 1; others are an error on a CPU.
    """
    greatest = tf.reduce_max(logits, axis=-1, keepdims=True)
    exponentials = tf.exp(logits - greatest)
    total = tf.reduce_sum(exponentials, axis=-1, keepdims=True)
    log_total = tf.squeeze(tf.math.log(total) + greatest, axis=-1)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        upstream = upstream[..., tf.newaxis]
        truth = tf.one_hot(labels, logits.shape[-1])
        return exponentials * (upstream / total) - truth * upstream, None

    return log_total - tf.gather(logits, labels, batch_dims=3), gradient


class CrossEntropy:
    """Softmax cross-entropy of ``logits``, plus a share of that of ``auxiliary_logits``.

    With n over the pictures of all replicas and p over the pixels of a picture that count, it is

        sum_np w ce(logits) / sum_np w + auxiliary_weight * sum_np w ce(auxiliary) / sum_np w

    where w is the weight of the pixel's class, 1 without `class_weights`. All valid pixels count,
    or, with ``ohem_threshold``, those that are hard for the head itself; see `hard_pixels`.

    Weights shape what is learned, not what is predicted. Weighted cross-entropy is least where the
    odds of two classes are the true ones times those of their weights, so that rare classes are
    found where they are not. So ``ce`` is taken of the logits plus log w of each class, which
    leaves the logits of the true odds; hard pixels, too, are found by that ``ce``.

    Reference: Zhao et al. 2017, section 3.3, where the share is 0.4; Elkan, "The Foundations of
    Cost-Sensitive Learning", IJCAI 2001, theorem 2, on the odds.

    Args:
      auxiliary_weight: The share; it is of no effect on a network without the auxiliary head.
      class_weights: Of each class, [K], none negative; None for 1.
      label_smoothing: Share of the truth that is spread evenly over all classes (Szegedy et al.
        2016, section 7).
      ohem_threshold: Probability of the true class up to which a pixel counts as hard; 0 for no
        online hard example mining.
      ohem_min_kept: Share of a picture's valid pixels that count at least, the hardest.

    Raises:
      ValueError: If a weight is negative, ``label_smoothing`` not in [0, 1), or one of the others
        not in [0, 1].
    """

    def __init__(
        self,
        auxiliary_weight: float = 0.4,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ohem_threshold: float = 0.0,
        ohem_min_kept: float = 1 / 16,
    ) -> None:
        if auxiliary_weight < 0:
            raise ValueError(
                f"`auxiliary_weight` must not be negative. Received: {auxiliary_weight}"
            )
        if class_weights is not None and min(class_weights) < 0:
            raise ValueError(f"`class_weights` must not be negative. Received: {class_weights}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1). Received: {label_smoothing}")
        if not 0 <= ohem_threshold <= 1:
            raise ValueError(f"`ohem_threshold` must be in [0, 1]. Received: {ohem_threshold}")
        if not 0 <= ohem_min_kept <= 1:
            raise ValueError(f"`ohem_min_kept` must be in [0, 1]. Received: {ohem_min_kept}")
        self.auxiliary_weight = auxiliary_weight
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept

    def loss(
        self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Objective.loss`; a label that is neither a class nor 255 is an error on a CPU.

        There is a term for each head.
        """
        valid, labels = _valid(labels)
        terms = [self._term(outputs["logits"], labels, valid)]
        if "auxiliary_logits" in outputs:
            loss, count = self._term(outputs["auxiliary_logits"], labels, valid)
            terms.append((self.auxiliary_weight * loss, count))
        losses, counts = zip(*terms, strict=True)
        return tf.stack(losses), tf.stack(counts)

    def _term(
        self, logits: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self.class_weights is not None:
            # A class of weight 0 is never the truth.
            logits += tf.constant(np.log([w or 1.0 for w in self.class_weights]), logits.dtype)
        per_pixel = cross_entropy(logits, labels)
        if self.ohem_threshold:
            # By the truth alone: with a smoothed one, no pixel has a loss near 0.
            valid = hard_pixels(per_pixel, valid, self.ohem_threshold, self.ohem_min_kept)
        if self.label_smoothing:
            # Cross-entropy with a truth of (1 - s) for the class and s / K for every class.
            truth = tf.gather(logits, labels, batch_dims=3)
            per_pixel += self.label_smoothing * (truth - tf.reduce_mean(logits, axis=-1))
        weights = tf.cast(valid, tf.float32)
        if self.class_weights is not None:
            weights *= tf.gather(tf.constant(self.class_weights, tf.float32), labels)
        return _sum_and_count(per_pixel, weights)

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
        loss, count = _sum_and_count(per_pixel, tf.cast(valid, tf.float32))
        return loss[tf.newaxis], count[tf.newaxis]

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
