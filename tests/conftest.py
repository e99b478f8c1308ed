"""Fixtures shared by all tests: a drawn data set, its records, commands as they are really run."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trainer  # noqa: F401  sets TensorFlow's environment before anything imports it
from tests.flink import cluster

ROOT = Path(__file__).parent.parent
_STRATEGY = pytest.StashKey()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Splits the CPU in two where a test needs it: later TensorFlow would refuse."""
    if any("mirrored_strategy" in getattr(item, "fixturenames", ()) for item in session.items):
        from trainer import distribution

        session.config.stash[_STRATEGY] = distribution.create_strategy("mirrored", logical_cpus=2)


@pytest.fixture(scope="session")
def mirrored_strategy(pytestconfig):
    """Two replicas on two logical CPUs; a process can have only one such strategy."""
    return pytestconfig.stash[_STRATEGY]


@pytest.fixture(scope="session")
def pairs_dir(tmp_path_factory) -> Path:
    """24 training and 7 validation pairs of 128 x 64 pixels."""
    from pipeline import synthesize

    folder = tmp_path_factory.mktemp("data") / "pairs"
    synthesize.write_data_set(str(folder), {"train": 24, "val": 7}, size=64, seed=0)
    return folder


@pytest.fixture(scope="session")
def records_dir(pairs_dir, tmp_path_factory) -> Path:
    """The records of `pairs_dir`, two shards a split. Not to be changed."""
    from pipeline import job

    folder = tmp_path_factory.mktemp("data") / "records"
    job.run(job.JobOptions(str(pairs_dir), str(folder), num_shards=2))
    return folder


@pytest.fixture(scope="session")
def many_pairs(pairs_dir, tmp_path_factory) -> Path:
    """Enough pairs for a job of some seconds, as links to a few."""
    folder = tmp_path_factory.mktemp("many")
    for path in pairs_dir.rglob("*.jpg"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        for copy in range(40):
            os.link(path, folder / path.parent.name / f"{copy}_{path.name}")
    return folder


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess]:
    """Runs ``python -m module *args`` from the repository's root and returns what came of it."""

    def run(module: str, *args: object, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", module, *map(str, args)]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=300, **options
        )

    return run


@pytest.fixture(scope="session")
def flink_cluster(tmp_path_factory) -> Iterator[cluster.Cluster]:
    """A Flink with two task managers and no job on it; a test that kills one brings another."""
    if reason := cluster.missing():
        pytest.skip(reason)
    with cluster.running(tmp_path_factory.mktemp("flink"), task_managers=2) as running:
        yield running


def _folder_from_environment(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{variable} names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def real_pairs() -> Path:
    """A folder of real pairs, with a folder for each split."""
    return _folder_from_environment("PSPNET_REAL_PAIRS")


@pytest.fixture(scope="session")
def real_labels() -> Path:
    """The exact train ids of `real_pairs`: for each ``SPLIT/x.jpg`` a greyscale ``SPLIT/x.png``."""
    return _folder_from_environment("PSPNET_REAL_LABELS")
