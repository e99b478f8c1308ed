"""A run's state on disk: what it goes on from."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from etils import epath
from google.protobuf import text_format

from trainer import run_folder
from trainer.run_folder import RunError
from trainer.whole_file import write_whole

_KEPT = {"latest": 2, "best": 1}

_REFUSALS = (
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,  # an input or output error
)


class Checkpoints:
    """The latest checkpoints of a run, and the best one.

    Args:
      model_dir: The run's folder.
      state: All that the run carries from step to step, by name; each of what
        `tf.train.Checkpoint` takes.
      writes: False for a worker that is not the chief: it keeps count, and leaves files alone.

    Attributes:
      step: The step that the state is of.
      best_mean_iou: The greatest so far.
      best_step: The step that had it.
    """

    def __init__(self, model_dir: str, state: Mapping[str, Any], writes: bool = True) -> None:
        self._folder = model_dir
        self._writes = writes
        self._step = tf.Variable(0, dtype=tf.int64)
        self._best_mean_iou = tf.Variable(-1.0, dtype=tf.float64)
        self._best_step = tf.Variable(0, dtype=tf.int64)
        self._checkpoint = tf.train.Checkpoint(
            step=self._step,
            best_mean_iou=self._best_mean_iou,
            best_step=self._best_step,
            **state,
        )
        for kind in run_folder.CHECKPOINTS:
            run_folder.last_checkpoint(model_dir, kind)  # raises where the list is damaged
        self._managers = {kind: self._manager(kind) for kind in _KEPT}

    def _manager(self, kind: str) -> tf.train.CheckpointManager:
        return tf.train.CheckpointManager(
            self._checkpoint,
            run_folder.checkpoint_folder(self._folder, kind),
            max_to_keep=_KEPT[kind],
            step_counter=self._step,
        )

    @property
    def step(self) -> int:
        return int(self._step)

    @property
    def best_mean_iou(self) -> float:
        return float(self._best_mean_iou)

    @property
    def best_step(self) -> int:
        return int(self._best_step)

    @property
    def exist(self) -> bool:
        """Whether there is one to go on from."""
        return self._managers["latest"].latest_checkpoint is not None

    def restore(self) -> int:
        """Loads the latest checkpoint that is whole; returns its step, 0 if there is none yet.

        Raises:
          RunError: Where there are checkpoints and all are damaged.
        """
        folder = run_folder.checkpoint_folder(self._folder, "latest")
        listed = tf.train.get_checkpoint_state(folder)
        paths = list(listed.all_model_checkpoint_paths) if listed else []
        if not self._writes:
            del paths[:-1]  # the chief has left a whole one at the end
        while paths:
            try:
                with run_folder.damage_as_run_error(paths[-1]):
                    self._checkpoint.restore(paths[-1]).assert_consumed()
            except RunError as error:
                # What a disk refuses for now may be whole, and must not be deleted.
                if len(paths) == 1 or isinstance(error.__cause__, _REFUSALS):
                    raise
                print(f"{error} The one before it is used.", file=sys.stderr)
                paths.pop()
            else:
                if self._writes:
                    print(f"Going on from step {self.step:,}.", file=sys.stderr)
                break
        if self._writes and listed and len(paths) < len(listed.all_model_checkpoint_paths):
            # Or a damaged one would be kept in place of a whole one.
            _list_only(len(paths), folder)
            self._managers["latest"] = self._manager("latest")
        return self.step

    def save(self, step: int, mean_iou: float | None = None) -> None:
        """Writes a checkpoint, and the best one too where `mean_iou` is the greatest so far.

        Raises:
          RunError: Where it cannot be written; those before it are kept.
        """
        self._step.assign(step)
        best = mean_iou is not None and mean_iou > self.best_mean_iou
        if best:
            self._best_mean_iou.assign(mean_iou)
            self._best_step.assign(step)
        if not self._writes:
            return
        try:
            # The best one first: were it lost to a kill, the run resumed would make it again.
            for kind in ("best", "latest") if best else ("latest",):
                self._managers[kind].save(step)
        except tf.errors.OpError as error:
            for half_written in tf.io.gfile.glob(os.path.join(self._folder, "*", "*_temp")):
                tf.io.gfile.rmtree(half_written)
            raise RunError(
                f"The checkpoint of step {step:,} could not be written "
                f"({run_folder.reason(error)}); earlier ones are kept. Make room on the disk and "
                "repeat the command to go on from there."
            ) from error


def _list_only(count: int, folder: str) -> None:
    """Shortens a folder's list of checkpoints to the first `count`, and deletes the others."""
    state = tf.train.get_checkpoint_state(folder)
    damaged = state.all_model_checkpoint_paths[count:]
    names = [os.path.basename(path) for path in state.all_model_checkpoint_paths[:count]]
    state.model_checkpoint_path = names[-1]
    state.all_model_checkpoint_paths[:] = names
    del state.all_model_checkpoint_timestamps[count:]
    listing = epath.Path(folder) / "checkpoint"
    write_whole(listing, text_format.MessageToString(state))
    for path in damaged:
        for file in tf.io.gfile.glob(f"{path}.*"):
            tf.io.gfile.remove(file)
