"""The optimizer of a configuration: learning rates by part of the network, decay of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from model.networks import Network
from trainer.config import ConfigError, OptimizerConfig
from trainer.muon import Muon
from trainer.schedule import PolyWithWarmup

_NOT_DECAYED = ("bias", "gamma", "beta")


class _Part(NamedTuple):
    name: str
    variables: list[keras.Variable]
    optimizer: keras.optimizers.Optimizer


class Optimizer:
    """One Keras optimizer for each part of a network that has a learning rate of its own.

    A Keras optimizer has one learning rate, and a greater gradient is no greater rate: Adam
    divides it out again. To be built in the scope of the strategy.

    With ``sgd``, weight decay is the gradient of the L2 penalty, weight_decay / 2 * kernel ** 2,
    and passes through the momentum: v = momentum * v - rate * (gradient + weight_decay * kernel),
    kernel += v, as in Caffe, with which Zhao et al. 2017 trained. (PyTorch multiplies by the rate
    after the momentum, which is the same while the rate is.) With ``adamw`` and ``muon`` it is
    decoupled from the gradient (Loshchilov and Hutter 2019).

    Args:
      config: Which optimizer, and its values.
      steps: Of training, over which the learning rate falls.
      network: What it trains.

    Attributes:
      trainable_variables: What it trains, in the order in which it takes the gradients.

    Raises:
      ConfigError: If there is a rate for the heads, and the network has no backbone.
    """

    def __init__(self, config: OptimizerConfig, steps: int, network: Network) -> None:
        self._config = config
        self._parts = [
            _Part(name, variables, _keras_optimizer(config, steps, factor))
            for name, variables, factor in _parts(network, config.head_rate_factor)
        ]
        for part in self._parts:
            part.optimizer.build(part.variables)
        self.trainable_variables = [v for part in self._parts for v in part.variables]

    @property
    def state(self) -> list[tf.Variable]:
        """All that it carries from step to step."""
        return [v.value for part in self._parts for v in part.optimizer.variables]

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rate of the next step; with several, each under the name of its part."""
        return {part.name: float(part.optimizer.learning_rate) for part in self._parts}

    def apply(self, gradients: Sequence[tf.Tensor]) -> None:
        """Updates the variables.

        Args:
          gradients: Of the global batch's loss, the same on every replica, clipped.
        """
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        left = iter(gradients)
        for part in self._parts:
            decayed = [self._with_decay(next(left), v) for v in part.variables]
            # A Keras optimizer sums over the replicas once more.
            part.optimizer.apply([gradient / replicas for gradient in decayed], part.variables)

    def _with_decay(self, gradient: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
        if self._config.name != "sgd" or variable.name in _NOT_DECAYED:
            return gradient
        return gradient + self._config.weight_decay * variable.value


def _parts(network: Network, factor: float) -> list[tuple[str, list[keras.Variable], float]]:
    """Name, variables, and factor of the learning rate of each part."""
    variables = network.model.trainable_variables
    if factor == 1:
        return [("learning_rate", variables, 1.0)]
    if network.backbone is None:
        raise ConfigError(
            f"optimizer.head_rate_factor={factor} needs a network with a backbone, and the "
            f"network {network.model.name!r} has none; leave it at 1."
        )
    backbone = {id(variable) for variable in network.backbone.trainable_variables}
    return [
        ("learning_rate/backbone", [v for v in variables if id(v) in backbone], 1.0),
        ("learning_rate/heads", [v for v in variables if id(v) not in backbone], factor),
    ]


def _keras_optimizer(
    config: OptimizerConfig, steps: int, factor: float
) -> keras.optimizers.Optimizer:
    peak = factor * config.learning_rate
    schedule = PolyWithWarmup(peak, steps, config.warmup_steps, config.power)
    if config.name == "sgd":
        return keras.optimizers.SGD(schedule, momentum=config.momentum)
    if config.name == "muon":
        optimizer = Muon(schedule, weight_decay=config.weight_decay)
    else:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=list(_NOT_DECAYED))
    return optimizer
