"""The poly learning-rate schedule with warm-up."""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("pspnet")
class PolyWithWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """peak * min(1, (step + 1) / warmup_steps) * (1 - step / total_steps) ** power.

    Reference: Zhao et al. 2017, section 5.1 (power 0.9); the warm-up is ours.

    Args:
      peak: The learning rate without either factor.
      total_steps: Where it ends at 0.
      warmup_steps: Steps of linear growth; 0 for none.
      power: Of the decay; 0 for none.
    """

    def __init__(self, peak: float, total_steps: int, warmup_steps: int, power: float) -> None:
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.power = power

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum(1.0, (step + 1.0) / max(self.warmup_steps, 1))
        remaining = tf.maximum(0.0, 1.0 - step / self.total_steps)
        return self.peak * warmup * remaining**self.power

    def get_config(self) -> dict[str, float]:
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
        }
