"""Muon for the kernels of convolutions."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from model.heads import is_of_classes


class Muon(keras.optimizers.Muon):
    """`keras.optimizers.Muon`, which leaves kernels of convolutions to AdamW, for those as well.

    A kernel [h, w, channels, filters] is taken as the matrix [h * w * channels, filters]. Its
    update is the momentum with all singular values made about 1, times 0.2 sqrt(longer side), which
    is of the size of AdamW's, so that the two share a learning rate. Left to AdamW are all vectors,
    the kernels that see the pixels' three channels, those of one filter a channel (depthwise), and
    the classifiers'.

    Reference: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the
    factor is of Liu et al., "Muon is Scalable for LLM Training", 2025, section 2.2.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        shape = tuple(variable.shape)
        return len(shape) < 2 or shape[-1] == 1 or shape[-2] <= 3 or is_of_classes(variable.path)

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        """All singular values of the kernel, as a matrix, made about 1; of the kernel's shape."""
        return tf.reshape(super().zeropower_via_newtonschulz5(_matrix(x), steps), x.shape)

    def lr_adjust(self, x: Any) -> Any:
        """The kernel's update times 0.2 sqrt(longer side) of the matrix."""
        return tf.reshape(super().lr_adjust(_matrix(x)), x.shape)


def _matrix(kernel: Any) -> tf.Tensor:
    return tf.reshape(kernel, [-1, kernel.shape[-1]])
