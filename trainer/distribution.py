"""Strategies by name, and what the workers of one tell each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from pipeline.errors import UserError
from trainer import cluster as cluster_lib
from trainer import start_watch
from trainer.cluster import Cluster
from trainer.interruption import EXIT_CODES

STRATEGIES = ("one", "mirrored", "multi_worker", "tpu")

_HEARTBEAT_SECONDS = 20
"""A worker that has been silent for so long is dead."""


class DistributionError(UserError):
    """A strategy that cannot be had on this machine, or workers that are lost."""


def create_strategy(
    name: str, logical_cpus: int = 1, *, tpu: str = "", start_timeout: float = 300.0
) -> tf.distribute.Strategy:
    """Makes a strategy; at most one that is not ``one`` works in a process.

    Args:
      name: ``one``, on the first device; ``mirrored``, on every GPU, or every logical CPU where
        there is no GPU; ``multi_worker``, on every GPU, or the first CPU, of each of the processes
        that TF_CONFIG names; ``tpu``, on every core of a TPU, which has never been run by us.
      logical_cpus: How many devices the CPU is split into.
      tpu: The TPU's name or address; empty for the machine's own.
      start_timeout: Seconds that a worker waits for the others to start. The process ends where
        they do not.

    Raises:
      UserError: Where the CPU can no longer be split, the name is unknown, TF_CONFIG is wrong, or
        there is no such TPU.
    """
    if name not in STRATEGIES:
        raise DistributionError(f"--strategy is one of {', '.join(STRATEGIES)}. Received: {name}.")
    if logical_cpus > 1:
        _split_cpu(logical_cpus)
    if name == "multi_worker":
        strategy = _multi_worker(cluster_lib.from_environment(), logical_cpus, start_timeout)
    elif name == "tpu":
        strategy = _tpu(tpu)
    else:
        gpus = tf.config.list_logical_devices("GPU")
        devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        strategy = (
            tf.distribute.OneDeviceStrategy(devices[0])
            if name == "one"
            else tf.distribute.MirroredStrategy(devices)
        )
    # Said, as a machine whose GPU TensorFlow cannot use would otherwise train slowly unexplained.
    names = ", ".join(device[-5:] for device in strategy.extended.worker_devices)
    others = num_workers(strategy) - 1
    more = f", and on {others} other worker{'s' * (others > 1)}" if others else ""
    print(f"Training on {names}{more}.", file=sys.stderr)
    return strategy


def _split_cpu(parts: int) -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * parts
        )
    except RuntimeError as error:
        raise DistributionError(
            "--logical_cpus must be set before TensorFlow's first use in a process."
        ) from error


def _multi_worker(
    cluster: Cluster, logical_cpus: int, start_timeout: float
) -> tf.distribute.Strategy:
    if logical_cpus > 1:
        raise DistributionError(
            "--strategy=multi_worker takes only the first CPU of a worker; start more workers in "
            f"place of --logical_cpus. Received: {logical_cpus}."
        )
    # TensorFlow's strategy sets the same up, but notices a dead worker after minutes only, and
    # there is no public way to the times.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{next(iter(cluster.addresses))}/replica:0/task:0",
        # TensorFlow does not always return after this time, so `start_watch` comes before it.
        cluster_register_timeout_in_ms=int(1000 * start_timeout) + 60_000,
        heartbeat_timeout_in_ms=1000 * _HEARTBEAT_SECONDS,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=job, num_tasks=len(addresses))
            for job, addresses in cluster.addresses.items()
        ],
    )
    with start_watch.ended_after(start_timeout), worker_errors():
        return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(name: str) -> tf.distribute.Strategy:
    """As TensorFlow's guide "Use TPUs" says. Never run by us: we had no TPU."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        first_line = str(error).strip().partition("\n")[0].rstrip(".")
        raise DistributionError(
            f"No TPU can be had ({first_line}). Received: --tpu={name}."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec()
    return sum(spec.num_tasks(job) for job in spec.jobs)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes and reports; where it is alone, it is."""
    if num_workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return (resolver.task_type, resolver.task_id) == (first, 0)


def worker_total(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """The sum of the workers' values, of any one shape; all workers must ask for it."""
    if num_workers(strategy) == 1:
        return values
    local = strategy.num_replicas_in_sync // num_workers(strategy)

    def of_replica(replica: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        first = replica.replica_id_in_sync_group % local == 0
        return tf.constant(values if first else np.zeros_like(values))

    parts = strategy.experimental_distribute_values_from_function(of_replica)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy()


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when all workers have called it."""
    worker_total(strategy, np.zeros([1], np.int64))


@contextmanager
def chief_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """The block is run by the chief, and then by all the others.

    Where it fails in the chief, the others learn it as they learn that a worker is lost.
    """
    if not is_chief(strategy):
        wait_for_all(strategy)
    yield
    if is_chief(strategy):
        wait_for_all(strategy)


def agreed_signal(strategy: tf.distribute.Strategy, asked: int | None, *, now: bool) -> int | None:
    """The signal at which all workers stop at this step.

    Several workers must stop at the same step, so they ask each other, which makes each wait for
    its device. A worker that is alone need not, and stops at any step.

    Args:
      strategy: Of the workers.
      asked: The signal that this worker was sent, if one was.
      now: Whether several workers ask each other at this step; the same for all of them.

    Returns:
      The signal, the same for all workers; SIGINT where they were sent different ones.
    """
    if num_workers(strategy) == 1:
        return asked
    if not now:
        return None
    votes = np.array([number == asked for number in EXIT_CODES], np.int64)
    total = worker_total(strategy, votes)
    return next((number for number, votes in zip(EXIT_CODES, total, strict=True) if votes), None)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Says in a sentence that another worker is lost.

    Raises:
      DistributionError: In place of TensorFlow's errors.
    """
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, lost) and "Collective ops is aborted" not in str(error):
            raise
        raise DistributionError(
            "Another worker ended or can no longer be reached; what it said last tells why. Start "
            "all workers again to go on from the last checkpoint."
        ) from error
