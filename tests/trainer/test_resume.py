"""The real command, stopped on the way and repeated, is the run without a break, bit for bit."""

import dataclasses
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer import config as config_lib

ROOT = Path(__file__).parents[2]
KILLS = 10
BEGUN = r"step 0 of|Going on from step"
SAVED = r"step [1-9]\d* of \d+: validation"
TIMINGS = ("images_per_second", "seconds/", "mebibytes/", "_hparams_")
"""How the tags begin of what two runs do not have in common."""


class Run:
    """The command in a process, and when it said what."""

    def __init__(self, command):
        self.said = []
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stderr:
            self.said.append((time.monotonic(), line.rstrip("\n")))

    def wait_for(self, pattern):
        """Returns when a line begins like this."""
        while not any(re.match(pattern, line) for _, line in list(self.said)):
            assert self._process.poll() is None, self.said
            time.sleep(0.01)

    def send(self, number):
        self._process.send_signal(number)

    def wait(self):
        """The exit code; all has been said then."""
        code = self._process.wait(timeout=300)
        self._reader.join()
        return code


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run without a break: its folder and its seconds to begin and for all steps after that."""

    folder: Path
    beginning: float
    steps: float


@pytest.fixture(scope="module")
def config_file(tiny_config, tmp_path_factory):
    config = config_lib.override_all(
        tiny_config,
        [("steps", 240), ("evaluate_every", 8), ("batch_size", 4), ("log_every", 3),
         ("ema_decay", 0.9), ("optimizer.name", "muon"), ("optimizer.learning_rate", 1e-2),
         ("loss.class_weights", "sqrt"), ("precision", "bfloat16"), ("data.paste_rate", 0.5)],
    )  # fmt: skip
    assert config.model.dropout > 0
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(config.to_json())
    return path


@pytest.fixture(scope="module")
def command(config_file, records_dir):
    """Function from a run's folder to its command line."""

    def line(folder):
        flags = [f"--config={config_file}", f"--data_dir={records_dir}", "--strategy=one"]
        return [sys.executable, "-m", "trainer.task", *flags, f"--model_dir={folder}"]

    return line


@pytest.fixture(scope="module")
def reference(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    run = Run(command(folder))
    assert run.wait() == 0, run.said
    told = [when for when, line in run.said if "validation mIoU" in line]
    rest = told[-1] - told[1]
    # What is compiled before the first steps are done is compiled again after each kill.
    return Reference(folder, beginning=max(0.0, told[1] - told[0] - rest / 30), steps=rest)


@pytest.fixture
def assert_same_run(assert_same_state, events):
    """Function that holds two runs to have the same state, the same logs, the same SavedModel."""

    def logged(folder):
        return {
            tag: {step: value.tensor.SerializeToString() for step, value in found}
            for tag, found in events(folder).items()
            if not tag.startswith(TIMINGS)
        }

    def exported(folder):
        (version,) = (folder / "export").iterdir()
        return version.name, tf.train.load_checkpoint(str(version / "variables" / "variables"))

    def check(first, second):
        assert_same_state(first, second)
        for part in ("train", "validation"):
            assert logged(second / part) == logged(first / part)
        (name, values), (other_name, others) = exported(first), exported(second)
        assert other_name == name
        names = [n for n in values.get_variable_to_shape_map() if "OBJECT_GRAPH" not in n]
        assert names
        for n in names:
            np.testing.assert_array_equal(others.get_tensor(n), values.get_tensor(n))

    return check


@pytest.mark.slow
def test_a_run_killed_ten_times_is_the_run_without_a_break(
    command, reference, assert_same_run, tmp_path
):
    folder = tmp_path / "run"
    rng = random.Random(0)
    went_on_from = []
    for kill in range(KILLS):
        run = Run(command(folder))
        # At any time after the start, or, so that some come further, after the next checkpoint.
        further = kill % 2
        run.wait_for(SAVED if further else BEGUN)
        beginning = 0 if further else reference.beginning
        time.sleep(rng.uniform(0, beginning + reference.steps / (2 * KILLS)))
        run.send(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL  # not at its end yet
        went_on_from += [line for _, line in run.said if line.startswith("Going on")]
    last = Run(command(folder))
    assert last.wait() == 0, last.said
    print(f"killed {KILLS} times; {'; '.join(went_on_from)}")
    assert len(set(went_on_from)) > 1
    assert_same_run(reference.folder, folder)


@pytest.mark.slow
def test_a_run_asked_to_stop_saves_the_next_step(command, reference, assert_same_run, tmp_path):
    folder = tmp_path / "run"
    run = Run(command(folder))
    run.wait_for("Training on")
    run.send(signal.SIGTERM)
    assert run.wait() == 0, run.said
    assert run.said[-1][1] == (
        "Stopped by SIGTERM between steps. The same command goes on from the last checkpoint."
    )
    rng = random.Random(0)
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        run = Run(command(folder))
        run.wait_for(BEGUN)
        time.sleep(reference.beginning + rng.uniform(0, reference.steps / 4))
        run.send(number)
        assert run.wait() == code, run.said
        said = run.said[-1][1]
        assert said.startswith(f"Stopped by {number.name}; step ")
        step = int(said.partition("; step ")[2].partition(" ")[0])
        assert said.endswith(f"step {step} is saved. The same command goes on from there.")
        assert (folder / "checkpoints" / f"ckpt-{step}.index").exists()
        assert not (folder / "export").exists()
    last = Run(command(folder))
    assert last.wait() == 0
    assert f"Going on from step {step}." in [line for _, line in last.said]
    assert_same_run(reference.folder, folder)
