"""Runs of a sweep, one after the other, each trainer.task in a process of its own.

config.json   what all runs have in common
sweep.json    the records, and the values of each run by its name
NAME/         a run's folder, and in it trial.json: whether and how it ended
sweep.txt     the runs, the best first
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import UserError
from trainer import config as config_lib
from trainer import curves, search
from trainer.config import Config
from trainer.interruption import EXIT_CODES
from trainer.search import Values
from trainer.whole_file import write_whole


class SweepError(UserError):
    """A sweep that cannot start or go on, or some of whose runs failed."""


class SweepInterrupted(Exception):
    """A sweep that stopped because it was asked to, and its run with it.

    Args:
      number: The signal that asked.

    Attributes:
      exit_code: For the process.
    """

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Sweep stopped by {name}. The same command goes on from there.")
        self.exit_code = EXIT_CODES[signal.Signals(number)]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How far a run has come.

    Attributes:
      minutes: On the clock, of all its processes so far.
      finished: Whether it is done.
      error: The sentence of its failure, if it failed.
      best: The best validation mIoU, if there is one yet.
      best_step: The step that had it.
      last: The last validation mIoU.
    """

    minutes: float = 0.0
    finished: bool = False
    error: str = ""
    best: float | None = None
    best_step: int = 0
    last: float = 0.0

    @property
    def state(self) -> str:
        """In a word."""
        if self.error:
            return "failed"
        return "done" if self.finished else "begun" if self.minutes else "waits"

    @property
    def rank(self) -> float:
        """The best mIoU, or less than any where there is none."""
        return -1.0 if self.best is None else self.best

    @property
    def scores(self) -> str:
        """The cells of the table."""
        if self.best is None:
            return f"{'-':>10}{'-':>9}{'-':>8}"
        return f"{self.best:>10.3f}{self.best_step:>9,}{self.last:>8.3f}"


class Sweep:
    """The runs of a folder.

    Args:
      folder: Of the sweep.
      data_dir: A records folder.
      config: What all runs have in common.
      trials: What each has of its own.

    Raises:
      UserError: Where a run's values cannot be used.
    """

    def __init__(
        self, folder: str, data_dir: str, config: Config, trials: Sequence[Values]
    ) -> None:
        self._folder = Path(folder)
        self._data_dir = os.path.abspath(data_dir)
        self._config = config
        self._trials = dict(zip(search.folder_names(trials), trials, strict=True))
        self._configs = [
            config_lib.override_all(config, list(values.items()), "--grid or --range")
            for values in trials
        ]
        self._process: subprocess.Popen[str] | None = None
        self._asked: int | None = None

    def prepare(self) -> None:
        """Makes the folder, or checks that it holds this sweep.

        Raises:
          SweepError: Where it holds another one or something else.
        """
        plan = self._folder / "sweep.json"
        if plan.exists():
            self._check(plan)
            return
        if self._folder.exists() and any(self._folder.iterdir()):
            raise SweepError(f"--sweep_dir {str(self._folder)!r} is not empty and holds no sweep.")
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / "config.json", self._config.to_json())
        write_whole(plan, json.dumps(self._plan, indent=2) + "\n")

    @property
    def _plan(self) -> dict[str, object]:
        return {"data_dir": self._data_dir, "trials": self._trials}

    def _check(self, plan: Path) -> None:
        path = self._folder / "config.json"
        known = Config.from_json(path.read_text(encoding="utf-8"), str(path))
        different = config_lib.differences(known, self._config)
        try:
            found = json.loads(plan.read_text(encoding="utf-8"))
            other = {name: found[name] for name in self._plan}
        except (ValueError, KeyError, TypeError) as error:
            raise SweepError(f"{str(plan)!r} is damaged; name another --sweep_dir.") from error
        # Through JSON, for which a tuple is a list.
        for name, value in json.loads(json.dumps(self._plan)).items():
            if other[name] != value:
                different.append("the records" if name == "data_dir" else "the values tried")
        if different:
            raise SweepError(
                f"{str(self._folder)!r} holds another sweep ({'; '.join(different)} differ). "
                "Repeat its flags to go on with it, or name another --sweep_dir."
            )

    def run(self, *flags: str) -> None:
        """Trains what is not finished, and prints and writes the table after each run.

        Args:
          *flags: More of trainer.task's.

        Raises:
          SweepError: At the end, where runs failed.
          SweepInterrupted: Where a signal asked to stop.
        """
        waiting = [name for name in self._trials if not self._outcome(name).finished]
        if waiting:
            self._describe()
        else:
            self._report()
        with self._signals():
            for name in waiting:
                print(f"Run {name} of {len(self._trials)}:", file=sys.stderr)
                self._train(name, flags)
                self._report()
                if self._asked is not None:
                    raise SweepInterrupted(self._asked)
        failed = [name for name in self._trials if self._outcome(name).error]
        if failed:
            raise SweepError(
                f"{len(failed)} of {len(self._trials)} runs failed; their reasons stand below the "
                "table. The same command tries them again."
            )

    def _report(self) -> None:
        text = self.table()
        print(text, flush=True)
        write_whole(self._folder / "sweep.txt", text + "\n")

    def table(self) -> str:
        """A line for each run, the best first, and the sentences of those that failed."""
        outcomes = {name: self._outcome(name) for name in self._trials}
        short = search.short_names(self._varied())
        rows = [["run", *short.values()]]
        cells = [f"{'best mIoU':>10}{'step':>9}{'last':>8}{'minutes':>9}{'state':>8}"]
        ranked = sorted(outcomes.items(), key=lambda item: item[1].rank, reverse=True)
        for name, outcome in ranked:
            values = self._trials[name]
            rows.append([name[:3], *(search.text(values[key]) for key in short)])
            cells.append(f"{outcome.scores}{outcome.minutes:>9.1f}{outcome.state:>8}")
        widths = [2 + max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            row[0].ljust(widths[0]) + cell + "".join(map(str.rjust, row[1:], widths[1:]))
            for row, cell in zip(rows, cells, strict=True)
        ]
        return "\n".join([*lines, *(f"{n}: {o.error}" for n, o in outcomes.items() if o.error)])

    def _varied(self) -> list[str]:
        """The names that have more than one value."""
        values: dict[str, set[str]] = {}
        for trial in self._trials.values():
            for name, value in trial.items():
                values.setdefault(name, set()).add(search.text(value))
        return [name for name, different in values.items() if len(different) > 1]

    def _outcome(self, name: str) -> Outcome:
        path = self._folder / name / "trial.json"
        return Outcome(**json.loads(path.read_text())) if path.exists() else Outcome()

    def _train(self, name: str, flags: Sequence[str]) -> None:
        folder = self._folder / name
        command = [sys.executable, "-m", "trainer.task", f"--config={self._folder / 'config.json'}"]
        command += [f"--data_dir={self._data_dir}", f"--model_dir={folder}", *flags]
        command += [f"--set={key}={search.text(v)}" for key, v in self._trials[name].items()]
        folder.mkdir(exist_ok=True)
        before, started = self._outcome(name).minutes, time.monotonic()
        # In a session of its own it gets Ctrl-C from us alone: a second one would not let it save.
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as self._process:  # fmt: skip
            if self._asked is not None:
                self._process.send_signal(self._asked)
            last = ""
            for line in self._process.stderr or ():
                sys.stderr.write(line)
                last = line.strip() or last
        code = self._process.returncode
        # One that was asked to stop ends with 0 too, but only a finished one has exported.
        finished = code == 0 and any((folder / "export").glob("[0-9]*"))
        failed = not finished and self._asked is None
        outcome = Outcome(
            minutes=before + (time.monotonic() - started) / 60,
            finished=finished,
            error=_sentence(code, last) if failed else "",
            **_scores(folder),
        )
        write_whole(folder / "trial.json", json.dumps(dataclasses.asdict(outcome)) + "\n")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """In the block, signals are handed on to the run, which saves what it has and ends."""

        def hand_on(number: int, _: FrameType | None) -> None:
            self._asked = number
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

        before = {number: signal.signal(number, hand_on) for number in EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _describe(self) -> None:
        """Says for TensorBoard's HParams which values differ, and what is compared."""
        leaves = [config_lib.leaves(config) for config in self._configs]
        values = {name: [each[name] for each in leaves] for name in self._varied()}
        if not any(self._folder.glob("events.out.tfevents.*")):
            # Here, as it imports TensorFlow.
            from trainer import summaries

            summaries.describe_sweep(str(self._folder), values)


def _scores(folder: Path) -> dict[str, Any]:
    """An outcome's scores of what a run has logged."""
    points = curves.read(str(folder), "validation", "mean_iou")
    if not points:
        return {}
    best = max(points, key=lambda point: (point.value, -point.step))
    return {"best": best.value, "best_step": best.step, "last": points[-1].value}


def _sentence(code: int, last: str) -> str:
    """Why a run failed: by its own last line, or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return last.removeprefix("error: ") or f"ended with {code}"
