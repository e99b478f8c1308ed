"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf


class WeightAverage:
    """An exponential moving average of all that a network learns: weights and statistics.

    After step t (from 1), average += (1 - d) * (value - average) with d = min(decay, t / (t + 9)),
    so that a young average is not held back by the random start. Keras's optimizers average too,
    but only what they train, which leaves an averaged network with the statistics of another.

    To be built in the strategy's scope.

    Reference: Polyak and Juditsky 1992; the growing decay is that of
    `tf.train.ExponentialMovingAverage`.

    Args:
      model: The network.
      decay: Weight of the past, at least 0 and below 1.

    Attributes:
      averages: In the order of the model's variables that are numbers, not random states.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self._decay = decay
        self._variables = averaged_variables(model)
        self.averages = [tf.Variable(v, trainable=False) for v in self._variables]
        self._updates = tf.Variable(0.0, trainable=False, name="updates")

    @property
    def state(self) -> list[tf.Variable]:
        """All that it carries from step to step; the averages come first."""
        return [*self.averages, self._updates]

    def update(self, strategy: tf.distribute.Strategy) -> None:
        """Takes in the network as it is; outside of the replicas' contexts."""
        self._updates.assign_add(1.0)
        new = 1.0 - tf.minimum(self._decay, self._updates / (self._updates + 9.0))
        for average, value in zip(self.averages, self._variables, strict=True):
            strategy.extended.update(
                average, lambda a, v, share: a.assign_add(share * (v - a)), args=(value, new)
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averages in the block, and its own values again after it."""
        own = [tf.identity(v) for v in self._variables]
        for variable, average in zip(self._variables, self.averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(self._variables, own, strict=True):
                variable.assign(value)


def averaged_variables(model: keras.Model) -> list[tf.Variable]:
    """The variables of a network that an average holds."""
    return [v.value for v in model.variables if v.dtype.startswith("float")]
