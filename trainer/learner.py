"""What training changes: a network, its optimizer, and what else is carried from step to step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from model.networks import Network
from trainer import run_folder
from trainer.config import Config
from trainer.loss_scale import LossScale
from trainer.optimizer import Optimizer
from trainer.step import Step, make_step
from trainer.weight_average import WeightAverage


class Learner:
    """A network that learns as a configuration says. To be built in the strategy's scope.

    Args:
      config: Says how.
      network: Built of the same configuration.

    Attributes:
      network: That network.
      optimizer: Of its variables.
    """

    def __init__(self, config: Config, network: Network) -> None:
        self._config = config
        self.network = network
        self.optimizer = Optimizer(config.optimizer, config.steps, network)
        self._average = WeightAverage(network.model, config.ema_decay) if config.ema_decay else None
        self._loss_scale = LossScale() if config.precision == "float16" else None

    @property
    def state(self) -> dict[str, Any]:
        """All that is carried from step to step, by name, for `tf.train.Checkpoint`."""
        state = {"model": run_folder.model_state(self.network.model)}
        state["optimizer"] = self.optimizer.state
        if self._average is not None:
            state["average"] = self._average.state
        if self._loss_scale is not None:
            state["loss_scale"] = self._loss_scale.state
        return state

    def make_step(self, strategy: tf.distribute.Strategy) -> Step:
        """The step of training; see `step.make_step`."""
        return make_step(
            strategy,
            self.network,
            self.optimizer,
            clip_norm=self._config.optimizer.clip_norm,
            accumulation_steps=self._config.accumulation_steps,
            average=self._average,
            loss_scale=self._loss_scale,
            jit_compile=self._config.jit_compile,
        )

    def evaluated(self) -> AbstractContextManager[None]:
        """In the block the network is the one that is evaluated: averaged, where there is one."""
        return nullcontext() if self._average is None else self._average.applied()
