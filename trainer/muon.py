"""Muon for the kernels of convolutions."""

from __future__ import annotations

import math
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

    def __init__(self, learning_rate: Any, weight_decay: float) -> None:
        # Keras 3.12, the last for Python 3.10, has other defaults, and one decay for all.
        super().__init__(learning_rate, weight_decay=weight_decay, adam_lr_ratio=1, ns_steps=5)
        self.adam_weight_decay = weight_decay

    def _should_use_adamw(self, variable: Any) -> bool:
        shape = tuple(variable.shape)
        return len(shape) < 2 or shape[-1] == 1 or shape[-2] <= 3 or is_of_classes(variable.path)

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        """All singular values of the kernel, as a matrix, made about 1; of the kernel's shape."""
        return tf.reshape(super().zeropower_via_newtonschulz5(_matrix(x), steps), x.shape)

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any = None) -> None:
        """Also Keras 3.12's, whose factor of the update is another one."""
        momentum = self.adam_momentums[variable.path] if m is None else m
        self.assign_add(momentum, gradient + momentum * (self.momentum - 1))
        step = self.zeropower_via_newtonschulz5(gradient + self.momentum * momentum, self.ns_steps)
        longer = max(math.prod(variable.shape[:-1]), variable.shape[-1])
        self.assign_sub(variable, lr * step * (0.2 * longer**0.5))


def _matrix(kernel: Any) -> tf.Tensor:
    return tf.reshape(kernel, [-1, kernel.shape[-1]])
