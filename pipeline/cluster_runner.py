"""Beam's runners for clusters: checked beforehand, quiet, and failing in a sentence."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineState

from pipeline.errors import UserError
from pipeline.local_runner import os_error_in

_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 1.0

_open = build_opener(ProxyHandler({})).open
"""Opens a URL as Beam's job server does, which knows of no proxy."""


class ClusterError(UserError):
    """A cluster that cannot be reached, or failed in the midst of the job."""


@contextmanager
def running(options: PipelineOptions) -> Iterator[beam.Pipeline]:
    """Gives an empty pipeline; what the block makes of it is run when the block ends.

    Raises:
      ClusterError: Where the runner's needs are not met, or the job failed for a cause that
        is not in the code of this package.
      OSError: Where one stands behind a worker's error.
    """
    runner = options.view_as(StandardOptions).runner
    cloud = options.view_as(GoogleCloudOptions)
    cloud.job_name = cloud.job_name or f"pspnet-{uuid.uuid4().hex[:8]}"
    try:
        _check_job_server(options)
        _hush()
        pipeline = beam.Pipeline(options=options)
        yield pipeline
        _run(pipeline)
    except KeyboardInterrupt:
        if flink := _flink_url(options):
            _cancel_on_flink(flink, cloud.job_name)
        raise
    except json.JSONDecodeError as error:
        raise ClusterError(f"--environment_config takes JSON here: {error}.") from error
    except (ImportError, ValueError) as error:
        raise ClusterError(str(error)) from error
    except grpc.FutureTimeoutError as error:
        endpoint = options.view_as(PortableOptions).job_endpoint
        raise ClusterError(f"There is no answer from --job_endpoint={endpoint}.") from error
    except (RuntimeError, grpc.RpcError) as error:
        text = str(error)
        if cause := os_error_in(text):
            raise cause from error
        if "Traceback (most recent call last)" in text or "[while running" in text:
            raise  # of the code that a worker ran
        raise ClusterError(f"The job failed on {runner}: {_reason(text)}.") from error


def _reason(text: str) -> str:
    """What Beam says of a failed job, without the job's name and Java's names for errors."""
    text = re.sub(r"^Pipeline \S+ failed in state \w+: |\b[\w.]+(Exception|Error): ", "", text)
    return text.strip(". \n")


def _check_job_server(options: PipelineOptions) -> None:
    """Looks for what Beam's job server, started on this machine, would take long to miss.

    Raises:
      ClusterError: Where there is no Java, no jar or no Flink.
    """
    runner = options.view_as(StandardOptions).runner
    jars = {
        "FlinkRunner": ("flink", options.view_as(FlinkRunnerOptions).flink_job_server_jar),
        "SparkRunner": ("spark", options.view_as(SparkRunnerOptions).spark_job_server_jar),
    }
    if runner not in jars or options.view_as(PortableOptions).job_endpoint:
        return
    java = options.view_as(JobServerOptions).job_server_java_launcher
    if not shutil.which(java):
        raise ClusterError(
            f"{runner} needs Java on this machine to start Beam's job server. There is no "
            f"{java!r}; install one, or name it with --job_server_java_launcher."
        )
    engine, jar = jars[runner]
    if jar and not urlsplit(jar).scheme and not zipfile.is_zipfile(jar):
        raise ClusterError(f"--{engine}_job_server_jar {jar!r} is no jar.")
    if flink := _flink_url(options):
        _check_flink(flink)


def _flink_url(options: PipelineOptions) -> str | None:
    """Flink's REST address; None where there is none, or only Beam's job server knows it."""
    master = options.view_as(FlinkRunnerOptions).flink_master
    if (
        options.view_as(StandardOptions).runner != "FlinkRunner"
        or options.view_as(PortableOptions).job_endpoint
        or master.startswith("[")  # Beam's words for a Flink of its own
    ):
        return None
    return master if "://" in master else f"http://{master}"


def _check_flink(url: str) -> None:
    try:
        _open(f"{url}/config", timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError, HTTPException) as error:
        raise ClusterError(
            f"There is no Flink at --flink_master={url} ({error}); the flag takes host:port of "
            "the job manager's REST address."
        ) from error


def _cancel_on_flink(url: str, job_name: str) -> None:
    """Cancels a job at Flink itself: Beam's way only makes the job server forget it."""
    with suppress(OSError):
        with _open(f"{url}/jobs/overview", timeout=_CONNECT_SECONDS) as answer:
            jobs = json.load(answer)["jobs"]
        for job in jobs:
            if job["name"] == job_name and job["end-time"] < 0:
                path = f"{url}/jobs/{job['jid']}?mode=cancel"
                _open(Request(path, method="PATCH"), timeout=_CONNECT_SECONDS).close()


def _hush() -> None:
    """Keeps Beam's narration of the job server off the screen, unless ``--verbosity`` asks for it.

    To the end of the process, as the job server ends there. No error is lost: all are raised too.
    """
    root = logging.getLogger()
    if not root.isEnabledFor(logging.INFO):
        for handler in root.handlers:
            handler.addFilter(_is_no_narration)


def _is_no_narration(record: logging.LogRecord) -> bool:
    return record.module not in ("portable_runner", "subprocess_server")


def _run(pipeline: beam.Pipeline) -> None:
    """Runs a pipeline to its end.

    Beam's own waiting takes threads, which write their tracebacks when Ctrl-C ends the job server.
    """
    result = pipeline.run()
    while not PipelineState.is_terminal(result.state):
        time.sleep(_POLL_SECONDS)
    result.wait_until_finish()  # Raises what the job failed for.
