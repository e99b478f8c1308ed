"""Muon for the kernels of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from model.heads import is_of_classes

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(keras.optimizers.AdamW):
    """Muon for kernels of convolutions, and AdamW for all else.

    A kernel [h, w, channels, filters] is taken as the matrix [h * w * channels, filters]. Its
    update is the Nesterov momentum of 0.95 with all singular values made about 1, times 0.2
    sqrt(longer side), which is of the size of AdamW's, so that the two share a learning rate. Left
    to AdamW are all vectors, the kernels that see the pixels' three channels, those of one filter a
    channel (depthwise), and the classifiers'.

    Not `keras.optimizers.Muon`: that leaves all kernels of convolutions to AdamW, and the one of
    Keras 3.12, the last for Python 3.10, is another optimizer.

    Reference: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the
    factor is of Liu et al., "Muon is Scalable for LLM Training", 2025, section 2.2.
    """

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Remembers which are kernels: when they are updated, they have no names."""
        super().build(variables)
        self._kernels = {index for index, v in enumerate(variables) if _is_kernel(v)}

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        if index not in self._kernels:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[index]
        self.assign_add(momentum, gradient + momentum * (_MOMENTUM - 1))
        matrix = tf.reshape(gradient + _MOMENTUM * momentum, [-1, gradient.shape[-1]])
        step = orthogonal(matrix) * (0.2 * max(matrix.shape) ** 0.5)
        self.assign_sub(
            variable, tf.cast(learning_rate, step.dtype) * tf.reshape(step, gradient.shape)
        )


def _is_kernel(variable: keras.Variable) -> bool:
    shape = tuple(variable.shape)
    small = len(shape) < 2 or shape[-1] == 1 or shape[-2] <= 3
    return not small and not is_of_classes(variable.path)


def orthogonal(matrix: tf.Tensor) -> tf.Tensor:
    """The matrix with singular values of about 1, 0.7 to 1.2, by Newton-Schulz iterations."""
    a, b, c = _QUINTIC
    rows, columns = matrix.shape
    x = tf.transpose(matrix) if rows > columns else matrix
    x /= tf.norm(x) + 1e-7
    for _ in range(_ITERATIONS):
        square = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * square + c * tf.matmul(square, square), x)
    return tf.transpose(x) if rows > columns else x
