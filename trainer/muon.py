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

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign_add(m, gradient + m * (self.momentum - 1))
        direction = gradient + self.momentum * m if self.nesterov else m
        matrix = tf.reshape(direction, [-1, direction.shape[-1]])
        update = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        self.assign_sub(variable, tf.reshape(update, direction.shape))
