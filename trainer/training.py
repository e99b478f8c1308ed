"""The training loop."""

from __future__ import annotations

import math
import time
import zlib
from contextlib import ExitStack
from typing import Any

import numpy as np
import tensorflow as tf

from model import metrics
from model.networks import Network
from pipeline.dataset_info import DatasetInfo
from pipeline.errors import UserError
from pipeline.input_fn import RecordReader, training_dataset
from trainer import backbone_weights, distribution, gauges, initial_model, run_folder
from trainer import config as config_lib
from trainer.checkpoints import Checkpoints
from trainer.config import Config
from trainer.evaluation import Evaluator
from trainer.initial_model import InitialModel
from trainer.interruption import Interrupted, kept_signals
from trainer.learner import Learner
from trainer.profiling import Profiler
from trainer.progress import Progress, say
from trainer.step import Step
from trainer.summaries import Summaries

_SAVE_SECONDS = 600.0
"""Between checkpoints, where evaluations are further apart."""


class TrainingError(UserError):
    """A run that cannot start or go on."""


def train(
    config: Config,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    model_dir: str,
    profile: tuple[int, int] | None = None,
) -> np.ndarray:
    """Trains to the configuration's last step, going on from the latest checkpoint.

    Args:
      config: What to compute.
      strategy: On which devices.
      data_dir: A records folder.
      model_dir: The run's folder, see `trainer.run_folder`.
      profile: The first and the last step that TensorFlow's profiler records, counted from 1;
        nothing is where the first is done already.

    Returns:
      The last validation's confusion matrix, int64 [K, K].

    Raises:
      UserError: Where data, configuration and folder do not fit, or the loss is not finite.
    """
    run_folder.require_local(model_dir)
    _check_batch(config, strategy)
    training_reader = RecordReader(data_dir, config.train_split)
    validation_reader = RecordReader(data_dir, config.validation_split)
    info = training_reader.info.kept_in(data_dir)
    for reader in (training_reader, validation_reader):
        if not sum(reader.split.class_pixels):
            raise TrainingError(
                f"Every pixel of {data_dir!r} is void; is the palette the right one?"
            )
    started = run_folder.last_checkpoint(model_dir, "latest") is not None
    initial = None if started else _initial_model(config)
    with strategy.scope():
        network = run_folder.build_network(config, info, to_train=True)
        if not started and config.model.backbone_weights:
            backbone_weights.load(config.model, network.backbone)
        if initial is not None:
            initial_model.fill(network, config, info.palette.class_names, initial)
        learner = Learner(config, network)
    chief = distribution.is_chief(strategy)
    with ExitStack() as stack:
        with distribution.chief_first(strategy):
            if not chief:
                run_folder.require_run(model_dir)
            # Only now that the network could be built: a slip in the flags must not occupy the
            # folder.
            run_folder.prepare(model_dir, config, info)
            if chief:
                stack.enter_context(run_folder.held(model_dir))
            checkpoints = Checkpoints(model_dir, learner.state, writes=chief)
            first_step = checkpoints.restore()
        _check_same_everywhere(config, strategy)
        if profile and profile[0] <= first_step:
            # The same command goes on with a run, whatever it has recorded by then.
            if chief:
                say(f"Nothing is profiled: step {profile[0]:,} is done.")
            profile = None
        run = _Run(
            strategy,
            config=config,
            learner=learner,
            step=learner.make_step(strategy),
            checkpoints=checkpoints,
            evaluator=Evaluator(
                strategy,
                learner.network,
                validation_reader,
                info.palette.num_classes,
                config.evaluation_batch_size,
            ),
            summaries=Summaries(model_dir, config, info.palette) if chief else None,
            profiler=Profiler(model_dir, profile if chief else None),
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


def _check_batch(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Raises a `TrainingError` where a batch cannot be taken on so many replicas."""
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise TrainingError(
            f"--batch_size is over all replicas and must divide among them. Received: "
            f"{config.batch_size} for {replicas} replicas."
        )
    if config.batch_size // replicas % config.accumulation_steps:
        raise TrainingError(
            f"accumulation_steps={config.accumulation_steps} must divide a replica's share of the "
            f"batch. Received: {config.batch_size} examples for {replicas} replicas."
        )
    if config.jit_compile and replicas > 1:
        raise TrainingError(
            "XLA compiles for one replica only, as replicas add up their sums in the middle of a "
            f"step: leave jit_compile out. Received: {replicas} replicas."
        )


def _check_same_everywhere(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Raises a `TrainingError` where workers have other values than this one.

    Of those that `run_folder.prepare` lets pass: the workers would wait for each other for ever, or
    take other parts of the validation split than their own.
    """
    own = np.array([zlib.crc32(config.to_json().encode())], np.int64)
    if distribution.worker_total(strategy, own) != distribution.num_workers(strategy) * own:
        values = config_lib.leaves(config)
        received = ", ".join(f"{name}={values[name]}" for name in config_lib.HARMLESS)
        raise TrainingError(
            "Workers that train together need the same flags, and another one has others. "
            f"Received here: {received}."
        )


def _initial_model(config: Config) -> InitialModel | None:
    """What a new run starts from, if it is another run; checks that there is one start only."""
    backbone = config.model.backbone_weights
    if config.initial_model and backbone:
        raise TrainingError(
            "--initial_model and model.backbone_weights both fill the backbone; give one of them. "
            f"Received: {config.initial_model!r} and {backbone!r}."
        )
    if config.model.freeze_batch_norm and not (config.initial_model or backbone):
        raise TrainingError(
            "model.freeze_batch_norm=True would keep statistics that a random network does not "
            "have; give --initial_model or model.backbone_weights too."
        )
    return initial_model.read(config.initial_model) if config.initial_model else None


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
    learner = Learner(config, network)
    run_folder.prepare(model_dir, config, info)
    checkpoints = Checkpoints(model_dir, learner.state)
    if checkpoints.exist:
        raise run_folder.RunError(f"{model_dir!r} holds a run already; name another --model_dir.")
    # Not measured yet, which training will do first of all; 0 makes it the best so far.
    checkpoints.save(step=0, mean_iou=0.0)


class _Run:
    """Steps, evaluations and what is said of them."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        config: Config,
        learner: Learner,
        step: Step,
        checkpoints: Checkpoints,
        evaluator: Evaluator,
        summaries: Summaries | None,
        profiler: Profiler,
    ) -> None:
        self._strategy = strategy
        self._config = config
        self._learner = learner
        self._step = step
        self._checkpoints = checkpoints
        self._evaluator = evaluator
        self._summaries = summaries  # None for a worker that is not the chief
        self._profiler = profiler
        self._matrix = np.zeros((0, 0), np.int64)
        self._mean_iou = float("nan")

    def to_the_end(self, batches: Any, first_step: int) -> np.ndarray:
        """Trains from `first_step`, the state's own; returns the last confusion matrix.

        Raises:
          Interrupted: Where a signal asked to stop.
          TrainingError: Where the loss is not finite.
        """
        config = self._config
        finished = first_step == config.steps or self._waited_enough(first_step)
        if first_step == 0 or finished:
            # Before the first step too: it shows what chance scores, and a fault in evaluation
            # is better found now than hours later. A network that was imported or comes from
            # another run gets its score, so that only what beats it becomes the best.
            trained_before = self._checkpoints.exist or bool(config.initial_model)
            self._say(f"Evaluating {self._evaluator.num_pictures:,} validation pictures first.")
            self._evaluate(first_step, save=first_step == 0 and trained_before)
        if finished:
            return self._matrix
        window = _Window(config.batch_size)
        saved = time.monotonic()
        iterator = iter(batches)
        with (
            kept_signals() as asked_to_stop,
            self._profiler as profiler,
            Progress(config.steps, first_step, self._summaries is not None) as progress,
        ):
            for step in range(first_step + 1, config.steps + 1):
                with profiler.step(step):
                    with window.times.waiting_for_input():
                        batch = next(iterator)
                    with window.times.computing():
                        window.add(step, self._step(batch), batch)
                progress.advance()
                evaluate = step % config.evaluation_interval == 0 or step == config.steps
                log = step % config.log_every == 0 or evaluate
                stop = distribution.agreed_signal(self._strategy, asked_to_stop(), now=log)
                save = stop is not None or time.monotonic() - saved > _SAVE_SECONDS
                tell = log or progress.due
                if tell or save:
                    with window.times.computing():
                        window.check(self._strategy)
                if tell:
                    progress.tell(step, window.last[1], self._mean_iou, window.images_per_second)
                if log:
                    self._log(window)
                    window = _Window(config.batch_size)
                elif step == first_step + 1:
                    window.restart_clock()  # The first step was compiled.
                if evaluate:
                    self._evaluate(step, save=True)
                elif save:
                    self._checkpoints.save(step)
                if evaluate or save:
                    saved = time.monotonic()
                    window.restart_clock()
                if step == config.steps or (evaluate and self._waited_enough(step)):
                    break
                if stop is not None:
                    raise Interrupted(stop, step)
        return self._matrix

    def _waited_enough(self, step: int) -> bool:
        """Whether the validation mIoU has not risen for as long as early stopping waits."""
        patience = self._config.early_stopping * self._config.evaluation_interval
        waits = patience and step - self._checkpoints.best_step >= patience
        if waits:
            self._say(
                f"No better validation mIoU since step {self._checkpoints.best_step:,}: stopped "
                "early."
            )
        return bool(waits)

    def _say(self, line: str) -> None:
        if self._summaries is not None:
            say(line)

    def _log(self, window: _Window) -> None:
        if self._summaries is None:
            return
        step, loss, norm = window.last
        self._summaries.training(
            step,
            {
                "loss": loss,
                "gradient_norm": norm,
                **self._learner.optimizer.learning_rates,
                "images_per_second": window.images_per_second,
                **window.times.means,
                **gauges.memory(),
            },
        )

    def _evaluate(self, step: int, save: bool) -> None:
        with self._learner.evaluated():
            evaluator, pictures = self._evaluator, self._config.pictures
            counts = evaluator.count()
            self._matrix = counts.matrix
            if self._summaries is not None:
                self._summaries.validation(
                    step,
                    self._matrix,
                    examples=evaluator.examples(evaluator.first(pictures)),
                    worst=evaluator.examples(counts.worst(pictures)),
                )
        self._mean_iou = metrics.mean_iou(self._matrix)
        if save:
            self._checkpoints.save(step, self._mean_iou)
        self._say(
            f"step {step:,} of {self._config.steps:,}: validation mIoU {self._mean_iou:.3f}, "
            f"pixel accuracy {metrics.pixel_accuracy(self._matrix):.3f}"
        )


class _Window:
    """The steps since the last look at them, so that a device need not wait for each.

    Attributes:
      times: Where the steps' time went since the clock was started.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._steps: list[tuple[int, tf.Tensor, Any]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Takes the time from now on, and counts images from now on."""
        self._since, self._counted = time.monotonic(), len(self._steps)
        self.times = gauges.StepTimes()

    def add(self, step: int, result: tf.Tensor, batch: Any) -> None:
        self._steps.append((step, result, batch["key"]))

    @property
    def last(self) -> tuple[int, float, float]:
        """Number, loss and gradient norm of the last step."""
        step, result, _ = self._steps[-1]
        loss, norm = result.numpy()
        return step, float(loss), float(norm)

    @property
    def images_per_second(self) -> float:
        images = (len(self._steps) - self._counted) * self._batch_size
        return images / max(time.monotonic() - self._since, 1e-9)

    def check(self, strategy: tf.distribute.Strategy) -> None:
        """Raises a `TrainingError` at the first step whose loss or gradient is not finite."""
        for step, result, keys in self._steps:
            loss, norm = (float(value) for value in result.numpy())
            if not math.isfinite(loss + norm):
                names = [
                    key.decode()
                    for part in strategy.experimental_local_results(keys)
                    for key in part.numpy().tolist()
                ]
                raise TrainingError(
                    f"The loss is {loss} and the gradients' norm {norm} at step {step:,}, with the "
                    f"records {', '.join(names)}. Checkpoints of earlier steps are kept. Train "
                    "with a lower --learning_rate, or with --set optimizer.clip_norm=1.0, in "
                    "another --model_dir; --initial_model starts it from the best of these steps."
                )
