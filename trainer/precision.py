"""What a network computes in while it is trained, as Keras's policies."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
_CPU_FLAGS = ("amx_bf16", "avx512_bf16")
_GPU_COMPUTE_CAPABILITY = (8, 0)


def policy(precision: str) -> str:
    """The Keras policy of a configuration's `precision`, of which ``auto`` asks this machine."""
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16() else "float32"
    return _POLICIES[precision]


def multiplies_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the device that trains has instructions for bfloat16, as others are slow at it.

    Args:
      cpu_info: Where Linux tells of the processor; elsewhere it is taken to have none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= _GPU_COMPUTE_CAPABILITY
    if not cpu_info.exists():
        return False
    flags = next((x for x in cpu_info.read_text().splitlines() if x.startswith("flags")), "")
    return any(flag in flags.split() for flag in _CPU_FLAGS)
