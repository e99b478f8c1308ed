"""The engine that runs a job: Beam's options from a command's flags, and the runner they name."""

from __future__ import annotations

import argparse
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline import cluster_runner, local_runner
from pipeline.errors import UserError


def beam_options(num_workers: int, arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options, also for its file systems; here a flag that Beam does not know is an error.

    Args:
      num_workers: Processes on this machine, or what the cluster's runner makes of it.
      arguments: The flags that are not the command's own; without ``--runner`` the job runs on this
        machine.

    Raises:
      UserError: Where Beam cannot use a flag.
    """
    local = not any(argument.split("=")[0] == "--runner" for argument in arguments)
    workers = f"--{'direct_num_workers' if local else 'num_workers'}={num_workers}"
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # Beam's parser prints its usage, a page long
            unknown = _unknown_arguments(arguments)
            options = PipelineOptions([*arguments, workers])
    except SystemExit as error:
        raise UserError(f"{said.getvalue().strip().rpartition('error: ')[2]}.") from error
    for argument in unknown if local else ():
        if not argument.startswith("-"):
            raise UserError(f"Unexpected argument {argument!r}; flags are written --name=value.")
        raise UserError(f"There is no flag {argument.split('=')[0]}. (--help lists the flags.)")
    FileSystems.set_options(options)  # some stores want them before there is a pipeline
    return options


def _unknown_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments that Beam's own flags leave over."""
    parsers: list[argparse.ArgumentParser] = []
    logging.disable(logging.WARNING)  # Beam would only say that it goes on without them
    try:
        PipelineOptions().get_all_options(add_extra_args_fn=parsers.append)
        return parsers[0].parse_known_args(list(arguments))[1]
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def running(num_workers: int, options: PipelineOptions) -> Iterator[beam.Pipeline]:
    """Gives an empty pipeline, to be filled in the block; runs it on this machine or elsewhere."""
    if options.view_as(StandardOptions).runner:
        with cluster_runner.running(options) as pipeline:
            yield pipeline
        return
    with local_runner.running(num_workers) as runner:
        pipeline = beam.Pipeline(runner, options)
        yield pipeline
        pipeline.run().wait_until_finish()
