"""A Flink session cluster on this machine, of processes that end with the test that starts them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FLINK = Path(__file__).parents[2] / ".build" / "flink"
_JOB_SERVER_JAR = _FLINK / "job-server" / "job-server.jar"
_WORKER = Path(sys.executable).with_name("pspnet-beam-worker")
_JVM_FLAGS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""For processes that live a minute or two: start fast, never mind the peak."""

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_START_SECONDS = 90

# Flink's own scripts would work out the sizes; here they are given, and must all be.
_CONFIG = """
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
jobmanager.bind-host: 127.0.0.1
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest_port}
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.managed.size: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
io.tmp.dirs: {folder}
"""
_LOGGING = """
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5p %c{1} - %m%n
"""


def missing() -> str | None:
    """What this machine lacks to run Flink, and how to get it."""
    if not shutil.which("java"):
        return "no Java: install version 11 or 17, on Debian with 'apt-get install default-jre'"
    if not (_FLINK / "lib").is_dir():
        return f"no Flink in {_FLINK}/lib: 'make test-flink' fetches it from PyPI"
    if not _JOB_SERVER_JAR.is_file():
        maven = "" if shutil.which("mvn") else "; install Maven first ('apt-get install maven')"
        return f"no {_JOB_SERVER_JAR}: 'make test-flink' builds it from Maven Central{maven}"
    return None


class Cluster:
    """A job manager and its task managers, of one slot each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rest_port, rpc_port = _free_ports(2)
        self._processes: dict[str, subprocess.Popen] = {}
        config = _CONFIG.format(folder=folder, rest_port=self._rest_port, rpc_port=rpc_port)
        (folder / "config.yaml").write_text(config)
        (folder / "log4j.properties").write_text(_LOGGING)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._rest_port}"

    @property
    def beam_flags(self) -> list[str]:
        """What a command takes to run its job here, on two task managers."""
        return [
            "--runner=FlinkRunner",
            f"--flink_master={self.address}",
            "--parallelism=2",
            f"--flink_job_server_jar={_JOB_SERVER_JAR}",
            *(f"--job_server_jvm_properties={flag}" for flag in _JVM_FLAGS),
            "--environment_type=PROCESS",
            f'--environment_config={{"command": "{_WORKER}"}}',
        ]

    def start(self, task_managers: int) -> None:
        self._start("job-manager", _JOB_MANAGER)
        for number in range(task_managers):
            self._start(f"task-manager-{number}", _TASK_MANAGER)
        self.wait_until_free()

    def replace_lost_task_manager(self) -> None:
        """Starts one in the place of one that was killed."""
        name = next(n for n, process in self._processes.items() if process.poll() is not None)
        self._start(name, _TASK_MANAGER)
        self.wait_until_free()

    def wait_until_free(self) -> None:
        """Waits until all task managers have registered and no job is on them."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} has ended:\n{self._log(name).read_text()[-4000:]}")
            with contextlib.suppress(OSError):  # The job manager does not answer yet.
                free = [
                    manager["freeSlots"] for manager in self.get("/taskmanagers")["taskmanagers"]
                ]
                if free == [1] * (len(self._processes) - 1):
                    return
            time.sleep(0.2)
        raise TimeoutError(f"Flink is not free after {_START_SECONDS} s; its logs: {self._folder}")

    def stop(self) -> None:
        """Ends all processes, and the workers that task managers have started."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def get(self, path: str) -> Any:
        """The answer of Flink's REST API."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return json.load(answer)

    def task_managers(self) -> set[str]:
        return {manager["id"] for manager in self.get("/taskmanagers")["taskmanagers"]}

    def last_job(self) -> dict[str, Any]:
        jobs = self.get("/jobs/overview")["jobs"]
        return self.get(f"/jobs/{max(jobs, key=lambda job: job['start-time'])['jid']}")

    def records_read(self, job: dict[str, Any], step: str) -> dict[str, int]:
        """How many elements each task manager took in for a step of the pipeline."""
        (vertex,) = (vertex for vertex in job["vertices"] if step in vertex["name"])
        subtasks = self.get(f"/jobs/{job['jid']}/vertices/{vertex['id']}")["subtasks"]
        return {task["taskmanager-id"]: task["metrics"]["read-records"] for task in subtasks}

    def _start(self, name: str, main_class: str) -> None:
        command = [
            "java",
            *_JVM_FLAGS,
            "-Xmx512m",
            f"-Dlog4j.configurationFile={self._folder}/log4j.properties",
        ]
        command += ["-cp", f"{_FLINK}/lib/*", main_class, "--configDir", str(self._folder)]
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@contextlib.contextmanager
def running(folder: Path, task_managers: int) -> Iterator[Cluster]:
    """Gives a cluster that keeps its configuration, logs and temporary files in a folder."""
    assert _WORKER.exists(), "install the package first: pip install --no-deps -e ."
    cluster = Cluster(folder)
    try:
        cluster.start(task_managers)
        yield cluster
    finally:
        cluster.stop()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
