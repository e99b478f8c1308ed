"""The preprocessing job on a real Apache Flink with two task managers (``make test-flink``)."""

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.dataset_info import INFO_FILE

pytestmark = pytest.mark.flink

ROOT = Path(__file__).parents[2]
SHARDS = 7


@pytest.fixture
def input_dir(pairs_dir, tmp_path_factory) -> Path:
    """A copy of `pairs_dir` that a test may spoil."""
    return Path(shutil.copytree(pairs_dir, tmp_path_factory.mktemp("input") / "pairs"))


@pytest.fixture
def start(flink_cluster, tmp_path) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Starts the real command, which writes to ``tmp_path / "records"`` on both task managers."""
    started = []

    def start(input_dir: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "pipeline.preprocess", f"--input_dir={input_dir}"]
        command += [f"--output_dir={tmp_path / 'records'}", f"--num_shards={SHARDS}"]
        command += flink_cluster.beam_flags
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # with Beam's job server
                preexec_fn=_heed_ctrl_c,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it


def said(process: subprocess.Popen) -> tuple[str, str]:
    """What the command wrote to standard output and, but for its progress, to standard error."""
    output, errors = process.communicate(timeout=240)
    progress = r"^[\d,]+ of ([\d,]+ pairs|\d+ shards are finished and stay in .*)\n"
    return output, re.sub(progress, "", errors, flags=re.MULTILINE)


def assert_ended(process: subprocess.Popen, exit_code: int, sentence: str) -> None:
    """One line on standard error, and no output that could be taken for whole."""
    output, errors = said(process)
    assert process.returncode == exit_code, errors
    assert re.fullmatch(rf"error: {sentence}\n", errors), errors
    assert output == ""


def test_both_task_managers_write_the_same_bytes_as_one_machine(
    flink_cluster, start, pairs_dir, tmp_path, run_command
):
    process = start(pairs_dir)
    output, errors = said(process)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "31 records" in output

    job = flink_cluster.last_job()
    assert job["state"] == "FINISHED"
    shards = flink_cluster.records_read(job, "_WriteShard")
    assert shards.keys() == flink_cluster.task_managers()
    assert all(count > 0 for count in shards.values())
    assert sum(shards.values()) == 2 * SHARDS

    local = tmp_path / "local"
    flags = [f"--input_dir={pairs_dir}", f"--output_dir={local}", f"--num_shards={SHARDS}"]
    assert run_command("pipeline.preprocess", *flags).returncode == 0
    files = {path.name: path.read_bytes() for path in local.iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "records").iterdir()} == files
    assert len(files) > 2 * SHARDS


def test_a_file_that_cannot_be_read_fails_the_job_in_a_sentence(start, input_dir, tmp_path):
    path = input_dir / "train" / "999.jpg"
    os.mknod(path, stat.S_IFSOCK | 0o600)  # opening it fails, for root too
    assert_ended(start(input_dir), 1, f"No such device or address: {re.escape(str(path))}.")
    assert not list(tmp_path.rglob(INFO_FILE))


@pytest.mark.parametrize(
    ("victim", "sentence"),
    [
        ("worker", r"The job failed on FlinkRunner: CANCELLED: .*"),
        ("task manager", r"The job failed on FlinkRunner: .*TaskManager .* no longer reachable.*"),
    ],
    ids=["worker", "task manager"],
)
def test_a_killed_process_fails_the_job_in_a_sentence(
    flink_cluster, start, input_dir, tmp_path, victim, sentence
):
    pipe = input_dir / "train" / "999.jpg"
    os.mkfifo(pipe)  # whose reader waits for ever
    process = start(input_dir)
    with _open_for_writing(pipe):
        worker = _process_with_open(pipe)
        if victim == "worker":
            os.kill(worker, signal.SIGKILL)
        else:
            os.killpg(os.getpgid(worker), signal.SIGKILL)
    try:
        assert_ended(process, 1, sentence)
        assert not list(tmp_path.rglob(INFO_FILE))
    finally:
        if victim == "task manager":
            flink_cluster.replace_lost_task_manager()


def test_ctrl_c_cancels_the_job_on_the_cluster(flink_cluster, start, input_dir, tmp_path):
    pipe = input_dir / "train" / "999.jpg"
    os.mkfifo(pipe)
    process = start(input_dir)
    with _open_for_writing(pipe):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert_ended(process, 130, "Interrupted.")
        job = flink_cluster.last_job()
        assert job["state"] in ("CANCELLING", "CANCELED")
    assert not list(tmp_path.rglob(INFO_FILE))
    flink_cluster.wait_until_free()


@contextlib.contextmanager
def _open_for_writing(pipe: Path) -> Iterator[None]:
    """Waits for a reader, and leaves it waiting for data."""
    deadline = time.monotonic() + 120
    while True:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # Nobody reads it yet.
            assert time.monotonic() < deadline
            time.sleep(0.1)
    try:
        yield
    finally:
        os.close(descriptor)


def _process_with_open(path: Path) -> int:
    """The process, other than this one, that has a file open."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # a pipe's reader has it only once it runs again
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            process_id = int(link.parts[2])
            with contextlib.suppress(OSError):  # Both may be gone already.
                if process_id != os.getpid() and link.readlink() == path:
                    return process_id
        time.sleep(0.1)
    raise LookupError(path)
