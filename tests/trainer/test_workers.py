"""Workers in real processes: the same run as one device, stopped together, lost, and gone on with.

All on one machine, which talk to each other as several machines do.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trainer import cluster, distribution, training
from trainer import config as config_lib

ROOT = Path(__file__).parents[2]
LOST = (
    "error: Another worker ended or can no longer be reached; what it said last tells why. Start "
    "all workers again to go on from the last checkpoint."
)


def tf_config(workers, index, job="worker"):
    addresses = {"worker": workers}
    return json.dumps({"cluster": addresses, "task": {"type": job, "index": index}})


def free_ports(count):
    """Ports that nothing listens on; all are held until all are known, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Job:
    """Two workers, or those of them that are started."""

    def __init__(self, flags, log_dir, started=(0, 1), more=((), ())):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        log_dir.mkdir()
        self._logs = {index: log_dir / f"{index}.txt" for index in started}
        self.addresses = addresses
        self.processes = {
            index: subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "trainer.task",
                    "--strategy=multi_worker",
                    *flags,
                    *more[index],
                ],
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": tf_config(addresses, index)},
                stdout=subprocess.DEVNULL,
                stderr=log.open("w"),
            )
            for index, log in self._logs.items()
        }

    def said(self, index):
        return self._logs[index].read_text().splitlines()

    def wait_for(self, path, seconds=250):
        end = time.monotonic() + seconds
        while not path.exists():
            for index, process in self.processes.items():
                assert process.poll() is None, self.said(index)
            assert time.monotonic() < end, f"no {path}"
            time.sleep(0.01)

    def wait(self, index, seconds=250):
        """The exit code of a worker."""
        return self.processes[index].wait(timeout=seconds)

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def start(tmp_path):
    """Function from flags to a `Job`, whose processes end with the test."""
    jobs = []

    def begin(flags, **options):
        jobs.append(Job(flags, tmp_path / f"job_{len(jobs)}", **options))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.end()


@pytest.fixture(scope="module")
def worker_config(tiny_config):
    """All of a step that replicas must do together.

    Rounding that carries a unit over the kink of its ReLU grows a thousandfold from there. So there
    is no pyramid, whose averages of a picture leave a normalisation four values, and crops are
    small: with four times as many units three seeds of four have one so near the kink.
    """
    assert tiny_config.model.dropout > 0
    return config_lib.override_all(
        tiny_config,
        [("steps", 20), ("log_every", 2), ("evaluate_every", 5),
         ("data.crop_size", 32),
         ("model.name", "fcn32s"), ("model.bins", [1, 2, 3, 6]), ("model.head_channels", 512),
         ("optimizer.clip_norm", 0.5), ("optimizer.learning_rate", 0.01), ("ema_decay", 0.9),
         ("accumulation_steps", 2), ("loss.class_weights", "sqrt"), ("evaluation_batch_size", 3)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def flags(worker_config, records_dir, tmp_path_factory):
    """Function from a run's folder to the flags of a worker."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(worker_config.to_json())
    return lambda folder: [
        f"--config={path}", f"--data_dir={records_dir}", f"--model_dir={folder}"
    ]  # fmt: skip


def read_events(folder):
    return sorted(path.name for path in folder.glob("*/events.out.tfevents.*"))


def scores_at_start(folder, scalars):
    tags = ["mean_iou", "pixel_accuracy", *(f"iou/{name}" for name in ("road", "sky", "car"))]
    return {tag: scalars(folder / "validation", tag)[0] for tag in tags}


@pytest.mark.slow
def test_two_workers_are_one_device_whatever_befalls_them(
    worker_config, flags, records_dir, mirrored_strategy, start, tmp_path, final_state,
    assert_same_state, scalars,
):  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    job = start(flags(whole))
    # On one device and on two replicas, while the workers train.
    alone = {
        name: (tmp_path / name, training.train(worker_config, strategy, str(records_dir), str(
            tmp_path / name)))
        for name, strategy in (
            ("one", distribution.create_strategy("one")), ("two", mirrored_strategy)
        )
    }  # fmt: skip
    assert [job.wait(0), job.wait(1)] == [0, 0], job.said(0) + job.said(1)
    # The first alone speaks and writes.
    assert job.said(1) == ["Training on CPU:0, and on 1 other worker."]
    assert [line for line in job.said(0) if line.startswith("step 20 of 20: validation")]
    assert len(read_events(whole)) == 2
    assert [path.name for path in (whole / "export").iterdir()]
    found = final_state(whole)
    for folder, _ in alone.values():
        expected = final_state(folder)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=1e-5, err_msg=name)
        # Of the same weights all count the same, to the last pixel.
        assert scores_at_start(folder, scalars) == scores_at_start(whole, scalars)

    job = start(flags(broken))
    job.wait_for(broken / "checkpoints" / "ckpt-5.index")
    job.processes[1].send_signal(signal.SIGTERM)
    assert [job.wait(0), job.wait(1)] == [0, 0], job.said(0) + job.said(1)
    said = job.said(0)[-1]
    assert said.startswith("Stopped by SIGTERM; step ")
    step = int(said.partition("; step ")[2].partition(" ")[0])
    assert step < 20
    assert (broken / "checkpoints" / f"ckpt-{step}.index").exists()
    assert not (broken / "export").exists()

    # The first leads the others, so that its end is another one than theirs.
    for victim, step in ((1, 10), (0, 15)):
        job = start(flags(broken))
        job.wait_for(broken / "checkpoints" / f"ckpt-{step}.index")
        job.processes[victim].kill()
        killed = time.monotonic()
        other = 1 - victim
        assert job.wait(other, seconds=60) == 1, job.said(other)
        print(f"Worker {other} ended after {time.monotonic() - killed:.1f} s.")
        assert job.said(other)[-1] == LOST
        assert not [line for line in job.said(other) if "Traceback" in line]

    job = start(flags(broken))
    assert [job.wait(0), job.wait(1)] == [0, 0], job.said(0) + job.said(1)
    assert "Going on from step" in job.said(0)[1]
    assert_same_state(whole, broken)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_never_starts_is_named(flags, start, tmp_path, index):
    job = start([*flags(tmp_path / "run"), "--start_timeout=5"], started=[index])
    assert job.wait(index, seconds=120) == 1
    missing = 1 - index
    assert job.said(index) == [
        "error: Not all workers started within 5 s (--start_timeout); missing: "
        f"worker {missing} ({job.addresses[missing]})."
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("limit", "code"), [(1, 1), (60, 3)])
def test_only_a_wait_that_is_too_long_ends_the_process(limit, code):
    """Also one that keeps Python's lock, as TensorFlow's may."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    program = f"""
import ctypes, sys
from trainer import start_watch
with start_watch.ended_after({limit}):
    ctypes.PyDLL(None).usleep(9_000_000)
sys.exit(3)
"""
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TF_CONFIG": tf_config(addresses, 0)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ended.returncode == code
    said = (
        f"error: Not all workers started within 1 s (--start_timeout); missing: worker 1 "
        f"({addresses[1]}).\n"
    )
    assert ended.stderr == (said if limit == 1 else "")
    # stderr is closed only when the watch has ended as well.
    assert time.monotonic() - started < 30


@pytest.mark.slow
@pytest.mark.parametrize("other", ["log_every=3", "evaluation_batch_size=2"])
def test_workers_with_other_flags_are_told(start, flags, tmp_path, other):
    """Of those that may change when a run goes on."""
    job = start(flags(tmp_path / "run"), more=[[], [f"--set={other}"]])
    assert [job.wait(0), job.wait(1)] == [1, 1]
    name, _, value = other.partition("=")
    assert job.said(1)[-1].startswith("error: Workers that train together need the same flags")
    assert f"{name}={value}" in job.said(1)[-1]
    assert f"{name}={value}" not in job.said(0)[-1]


TWO = ["a:1", "b:2"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["needs the environment variable TF_CONFIG"]),
        ("{", ["not JSON", "Received: {"]),
        ("[]", ["TF_CONFIG's cluster must be an object", "Received: null"]),
        ('{"cluster": {}}', ["cluster.worker must list"]),
        ('{"cluster": {"worker": []}}', ["cluster.worker must list"]),
        ('{"cluster": {"worker": "a:1"}}', ["cluster.worker must be a list", '"a:1"']),
        ('{"cluster": {"worker": ["a"]}}', ['"HOST:PORT"', '["a"]']),
        ('{"cluster": {"worker": ["a:99999"]}}', ['"HOST:PORT"', '["a:99999"]']),
        ('{"cluster": {"worker": ["a:1", "a:1"]}}', ["twice", "a:1, a:1"]),
        ('{"cluster": {"worker": ["a:1"], "chief": ["b:1", "c:1"]}}', ["chief must be one"]),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', ["Received: ps"]),
        ('{"cluster": {"worker": ["a:1"]}}', ["task must be an object", "null"]),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', ["task.index", "null"]),
        (tf_config(TWO, True), ["task.index must be a whole number", "true"]),
        (tf_config(TWO, "0"), ["task.index must be a whole number", '"0"']),
        (tf_config(TWO, 2), ["from 0 to 1", "Received: 2"]),
        (tf_config(TWO, -1), ["from 0 to 1", "Received: -1"]),
        (tf_config(TWO, 0, job="evaluator"), ["one of worker", "'evaluator'"]),
    ],
)
def test_a_wrong_tf_config_is_refused(monkeypatch, text, parts):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(cluster.ClusterError) as caught:
        cluster.from_environment()
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_right_tf_config_is_read(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({
        "cluster": {"worker": ["a:1", "b:2"], "chief": ["[::1]:3"]},
        "task": {"type": "worker", "index": 1}, "environment": "cloud",
    }))  # fmt: skip
    found = cluster.from_environment()
    assert (found.job, found.index) == ("worker", 1)
    assert found.peers == {"chief 0": "[::1]:3", "worker 0": "a:1"}


def test_silent_workers_are_those_that_take_no_connection():
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = ["127.0.0.1:1", f"127.0.0.1:{server.getsockname()[1]}", f"127.0.0.1:{port}"]
        found = cluster.silent(cluster.Cluster({"worker": addresses}, "worker", 0))
    assert found == [f"worker 2 (127.0.0.1:{port})"]


def test_what_no_worker_can_do_is_told_before_tensorflow_starts(run_command, records_dir, tmp_path):
    result = run_command(
        "trainer.task", "--strategy=multi_worker", f"--data_dir={records_dir}",
        f"--model_dir={tmp_path / 'run'}", env={**os.environ, "TF_CONFIG": "{}"},
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == ("error: TF_CONFIG's cluster must be an object. Received: null.\n")


def test_a_process_that_is_alone_is_its_own_chief_and_all_of_the_total():
    strategy = distribution.create_strategy("one")
    assert distribution.num_workers(strategy) == 1
    assert distribution.is_chief(strategy)
    values = np.array([[1, 2], [3, 4]])
    np.testing.assert_array_equal(distribution.worker_total(strategy, values), values)
