"""The loss's scale for training in float16."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


class LossScale:
    """A factor that lifts small gradients into float16's range, as great as they allow.

    It is doubled after `growth_steps` steps in a row whose gradients were finite, and halved, the
    step left out, where one was not. To be built in the strategy's scope. (Keras's
    `LossScaleOptimizer` belongs to one optimizer; here several, and clipping, share the factor.)

    Reference: Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2.

    Args:
      initial: The first factor.
      growth_steps: See above.
    """

    def __init__(self, initial: float = 2.0**15, growth_steps: int = 2000) -> None:
        self._growth_steps = growth_steps
        self.value = tf.Variable(initial, trainable=False, name="loss_scale")
        self._finite_steps = tf.Variable(0, trainable=False, name="finite_steps")

    @property
    def state(self) -> list[tf.Variable]:
        """All that it carries from step to step."""
        return [self.value, self._finite_steps]

    def guard(self, norm: tf.Tensor, update: Callable[[], None]) -> tf.Tensor:
        """Updates if the gradients' norm is finite, and adapts the factor.

        Returns:
          The norm; 0 for a step that was left out. Where even a factor of 1 is too great, it is
          not the factor's fault, and the norm is returned as it is.
        """
        finite = tf.math.is_finite(norm)
        shown = tf.where(tf.logical_or(finite, self.value < 1.0), norm, 0.0)

        def took() -> tf.Tensor:
            update()
            grow = self._finite_steps.assign_add(1) >= self._growth_steps
            self.value.assign(tf.where(grow, 2.0 * self.value, self.value))
            self._finite_steps.assign(tf.where(grow, 0, self._finite_steps))
            return tf.constant(True)

        def left_out() -> tf.Tensor:
            self.value.assign(0.5 * self.value)
            self._finite_steps.assign(0)
            return tf.constant(False)

        with tf.control_dependencies([shown]):
            tf.cond(finite, took, left_out)
        return shown
