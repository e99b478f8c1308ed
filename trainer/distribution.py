"""Strategies by name."""

from __future__ import annotations

import sys

import tensorflow as tf

from pipeline.errors import UserError

STRATEGIES = ("one", "mirrored")


class DistributionError(UserError):
    """A strategy that cannot be had on this machine."""


def create_strategy(name: str, logical_cpus: int = 1) -> tf.distribute.Strategy:
    """Makes a strategy; at most one mirrored strategy works in a process.

    Args:
      name: ``one``, on the first device, or ``mirrored``, on every GPU, or every logical CPU
        where there is no GPU.
      logical_cpus: How many devices the CPU is split into.

    Raises:
      DistributionError: Where the CPU can no longer be split, or the name is unknown.
    """
    if name not in STRATEGIES:
        raise DistributionError(f"--strategy is one of {', '.join(STRATEGIES)}. Received: {name}.")
    if logical_cpus > 1:
        _split_cpu(logical_cpus)
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == "one":
        del devices[1:]
    # Said, as a machine whose GPU TensorFlow cannot use would otherwise train slowly unexplained.
    print(f"Training on {', '.join(device[-5:] for device in devices)}.", file=sys.stderr)
    if name == "one":
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.MirroredStrategy(devices)


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
