"""The training loop."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from model import metrics
from model.networks import Network
from pipeline.dataset_info import DatasetInfo
from pipeline.errors import UserError
from pipeline.input_fn import Batch, RecordReader, training_dataset
from trainer import backbone_weights, run_folder
from trainer.config import Config
from trainer.evaluation import Evaluator
from trainer.optimizer import Optimizer
from trainer.summaries import Summaries

_LOG_SECONDS = 2.0
_LINE_SECONDS = 30.0
"""Between lines of progress where there is no terminal to show a bar on."""

Step = Callable[[Any], tf.Tensor]


class TrainingError(UserError):
    """A run that cannot start or go on."""


def train(
    config: Config, strategy: tf.distribute.Strategy, data_dir: str, model_dir: str
) -> np.ndarray:
    """Trains to the configuration's last step, going on from the latest checkpoint.

    Args:
      config: What to compute.
      strategy: On which devices.
      data_dir: A records folder.
      model_dir: The run's folder, see `trainer.run_folder`.

    Returns:
      The last validation's confusion matrix, int64 [K, K].

    Raises:
      UserError: Where data, configuration and folder do not fit, or the loss is not finite.
    """
    if config.batch_size % strategy.num_replicas_in_sync:
        raise TrainingError(
            f"--batch_size is over all replicas and must divide among them. Received: "
            f"{config.batch_size} for {strategy.num_replicas_in_sync} replicas."
        )
    training_reader = RecordReader(data_dir, config.train_split)
    validation_reader = RecordReader(data_dir, config.validation_split)
    info = training_reader.info
    for reader in (training_reader, validation_reader):
        if not sum(reader.split.class_pixels):
            raise TrainingError(
                f"Every pixel of {data_dir!r} is void; is the palette the right one?"
            )
    with strategy.scope():
        network = run_folder.build_network(config, info)
        optimizer = Optimizer(config.optimizer, config.steps, network)
    started = run_folder.last_checkpoint(model_dir, "latest") is not None
    if config.model.backbone_weights and not started:
        backbone_weights.load(config.model, network.backbone)
    # Only now that the network could be built: a slip in the flags must not occupy the folder.
    run_folder.prepare(model_dir, config, info)
    state = _State(network.model, optimizer, model_dir)
    first_step = state.restore()
    run = _Run(
        config=config,
        state=state,
        step=make_step(strategy, network, optimizer, config.optimizer.clip_norm),
        evaluator=Evaluator(
            strategy,
            network,
            validation_reader,
            info.palette.num_classes,
            config.evaluation_batch_size,
        ),
        summaries=Summaries(model_dir, config, info.palette),
    )
    batches = strategy.distribute_datasets_from_function(
        lambda context: training_dataset(
            training_reader,
            config.data,
            seed=config.seed,
            global_batch_size=config.batch_size,
            first_step=first_step,
            last_step=config.steps,
            replicas=context.num_replicas_in_sync,
            worker=context.input_pipeline_id,
            num_workers=context.num_input_pipelines,
        )
    )
    return run.to_the_end(batches, first_step)


def save_start(config: Config, info: DatasetInfo, network: Network, model_dir: str) -> None:
    """Makes a run of a network whose weights come from elsewhere: trained for 0 steps, the best.

    Args:
      config: The run's; `network` must be built of it and `info`.
      info: Of the records that the run is for.
      network: What to save.
      model_dir: A new folder.

    Raises:
      UserError: Where the folder holds a run already or cannot be written.
    """
    optimizer = Optimizer(config.optimizer, config.steps, network)
    run_folder.prepare(model_dir, config, info)
    state = _State(network.model, optimizer, model_dir)
    if state.has_checkpoint:
        raise run_folder.RunError(f"{model_dir!r} holds a run already; name another --model_dir.")
    # Not measured yet, which training will do first of all; 0 makes it the best so far.
    state.save(step=0, mean_iou=0.0)


def make_step(
    strategy: tf.distribute.Strategy,
    network: Network,
    optimizer: Optimizer,
    clip_norm: float = 0.0,
) -> Step:
    """One step of training that is the same on any number of replicas.

    Sums and counts of the loss are added up over the replicas before they are divided, and
    gradients before they are clipped.

    Returns:
      A function of a distributed batch; it updates the network and returns loss and global
      gradient norm, float32 [2].
    """
    variables = [variable.value for variable in optimizer.trainable_variables]

    def replica_step(batch: Batch) -> tf.Tensor:
        context = tf.distribute.get_replica_context()

        def total(value: Any) -> Any:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

        with tf.GradientTape() as tape:
            outputs = network.model(batch["image"], training=True)
            sums, counts = network.objective.loss(outputs, batch["label"])
            loss = tf.reduce_sum(sums / tf.maximum(total(counts), 1.0))
        gradients = total(tape.gradient(loss, variables))
        norm = tf.linalg.global_norm(gradients)
        if clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
        optimizer.apply(gradients)
        return tf.stack([total(loss), norm])

    @tf.function
    def step(batch: Any) -> tf.Tensor:
        results = strategy.run(replica_step, args=(batch,))
        return strategy.experimental_local_results(results)[0]

    return step


class _State:
    """A run's state on disk: the latest checkpoints, and the best one."""

    def __init__(self, model: keras.Model, optimizer: Optimizer, model_dir: str) -> None:
        self._folder = model_dir
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        self.best_mean_iou = tf.Variable(-1.0, dtype=tf.float64, name="best_mean_iou")
        self.optimizer = optimizer
        checkpoint = tf.train.Checkpoint(
            step=self.step,
            best_mean_iou=self.best_mean_iou,
            model=run_folder.model_state(model),
            optimizer=optimizer.state,
        )
        for kind in run_folder.CHECKPOINTS:
            run_folder.last_checkpoint(model_dir, kind)  # raises where the list is damaged
        self._latest, self._best = (
            tf.train.CheckpointManager(
                checkpoint,
                run_folder.checkpoint_folder(model_dir, kind),
                max_to_keep=kept,
                step_counter=self.step,
            )
            for kind, kept in (("latest", 2), ("best", 1))
        )

    @property
    def has_checkpoint(self) -> bool:
        return self._latest.latest_checkpoint is not None

    def restore(self) -> int:
        """Loads the latest checkpoint, if there is one; returns the step to go on from."""
        if self.has_checkpoint:
            with run_folder.damage_as_run_error(self._latest.latest_checkpoint):
                self._latest.checkpoint.restore(self._latest.latest_checkpoint).assert_consumed()
            print(f"Going on from step {int(self.step):,}.", file=sys.stderr)
        return int(self.step)

    def save(self, step: int, mean_iou: float) -> None:
        """Writes a checkpoint, and the best one too where this is it."""
        self.step.assign(step)
        best = mean_iou > float(self.best_mean_iou)
        if best:
            self.best_mean_iou.assign(mean_iou)
        try:
            # The best one first: were it lost to a kill, the run resumed would make it again.
            if best:
                self._best.save(step)
            self._latest.save(step)
        except tf.errors.OpError as error:
            for half_written in tf.io.gfile.glob(os.path.join(self._folder, "*", "*_temp")):
                tf.io.gfile.rmtree(half_written)
            raise TrainingError(
                f"The checkpoint of step {step:,} could not be written "
                f"({run_folder.reason(error)}); earlier ones are kept. Make room on the disk and "
                "repeat the command to go on from there."
            ) from error


class _Run:
    """Steps, evaluations and what is said of them."""

    def __init__(
        self,
        config: Config,
        state: _State,
        step: Step,
        evaluator: Evaluator,
        summaries: Summaries,
    ) -> None:
        self._config = config
        self._state = state
        self._step = step
        self._evaluator = evaluator
        self._summaries = summaries
        self._matrix = np.zeros((0, 0), np.int64)
        self._mean_iou = float("nan")
        self._last_line = time.monotonic()

    def to_the_end(self, batches: Any, first_step: int) -> np.ndarray:
        config = self._config
        if first_step in (0, config.steps):
            # Before the first step too: it shows what chance scores, and a fault in evaluation
            # is better found now than hours later. The checkpoint of an imported network gets its
            # score, so that only what beats it becomes the best.
            self._evaluate(first_step, save=first_step == 0 and self._state.has_checkpoint)
        rate = _Rate(config.batch_size)
        with tqdm(
            total=config.steps,
            initial=first_step,
            unit="step",
            desc="train",
            disable=not sys.stderr.isatty(),
        ) as bar:
            for step, batch in enumerate(batches, start=first_step + 1):
                result = self._step(batch)
                bar.update()
                rate.count()
                evaluate = step % config.evaluation_interval == 0 or step == config.steps
                if rate.due() or evaluate:
                    self._log(step, result.numpy(), rate.take(), bar)
                if evaluate:
                    self._evaluate(step, save=True)
                    rate.restart()
        return self._matrix

    def _log(self, step: int, result: np.ndarray, images_per_second: float, bar: tqdm) -> None:
        loss, norm = (float(value) for value in result)
        # Gradients that are not finite have spoilt the weights; the loss shows it a step later.
        if not math.isfinite(loss + norm):
            raise TrainingError(
                f"The loss is {loss} and the gradients' norm {norm} at step {step:,}. Lower "
                "--learning_rate, or clip the gradients: --set optimizer.clip_norm=1.0. "
                "Checkpoints of earlier steps are kept."
            )
        self._summaries.training(
            step,
            {
                "loss": loss,
                "gradient_norm": norm,
                **self._state.optimizer.learning_rates,
                "images_per_second": images_per_second,
            },
        )
        shown = f"loss {loss:.3f}, mIoU {self._mean_iou:.3f}, {images_per_second:.1f} images/s"
        bar.set_postfix_str(shown)
        if bar.disable and time.monotonic() - self._last_line > _LINE_SECONDS:
            print(f"step {step:,} of {self._config.steps:,}: {shown}", file=sys.stderr)
            self._last_line = time.monotonic()

    def _evaluate(self, step: int, save: bool) -> None:
        self._matrix = self._evaluator.confusion()
        self._mean_iou = metrics.mean_iou(self._matrix)
        accuracy = metrics.pixel_accuracy(self._matrix)
        self._summaries.validation(
            step, self._matrix, self._evaluator.examples(self._config.pictures)
        )
        if save:
            self._state.save(step, self._mean_iou)
        tqdm.write(
            f"step {step:,} of {self._config.steps:,}: validation mIoU {self._mean_iou:.3f}, "
            f"pixel accuracy {accuracy:.3f}",
            file=sys.stderr,
        )


class _Rate:
    """Images per second since the last time it was asked."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._steps, self._since = 0, time.monotonic()

    def count(self) -> None:
        self._steps += 1

    def due(self) -> bool:
        return time.monotonic() - self._since >= _LOG_SECONDS

    def take(self) -> float:
        rate = self._steps * self._batch_size / max(time.monotonic() - self._since, 1e-9)
        self.restart()
        return rate
