"""The workers of a job, as the environment variable TF_CONFIG names them."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.errors import UserError

_JOBS = ("chief", "worker")


class ClusterError(UserError):
    """A TF_CONFIG that describes no worker of a job, or workers that cannot be reached."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All workers of a job, and which of them this process is.

    Attributes:
      addresses: ``host:port`` of each, by ``chief`` (one or none) and ``worker``.
      job: Which of the two this process belongs to.
      index: Its place there.
    """

    addresses: dict[str, list[str]]
    job: str
    index: int

    @property
    def peers(self) -> dict[str, str]:
        """Addresses of the others, by names such as ``worker 1``."""
        return {
            f"{job} {index}": address
            for job, addresses in self.addresses.items()
            for index, address in enumerate(addresses)
            if (job, index) != (self.job, self.index)
        }


def from_environment() -> Cluster:
    """Reads TF_CONFIG, before TensorFlow, which answers a mistake in it late or never.

    Such as ``{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type":
    "worker", "index": 0}}``.

    Raises:
      ClusterError: Where it is missing, or not of that form.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        raise ClusterError(
            "--strategy=multi_worker needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, '
            '"task": {"type": "worker", "index": 0}}.'
        )
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ClusterError(f"TF_CONFIG is not JSON ({error}). Received: {text}") from error
    addresses = _addresses(_member(value, "cluster", dict))
    task = _member(value, "task", dict)
    job, index = _member(task, "type", str, "task."), _member(task, "index", int, "task.")
    if job not in addresses:
        raise ClusterError(
            f"TF_CONFIG's task.type must be one of {', '.join(addresses)}. Received: {job!r}."
        )
    if not 0 <= index < len(addresses[job]):
        raise ClusterError(
            f"TF_CONFIG's task.index must be from 0 to {len(addresses[job]) - 1}, as cluster.{job} "
            f"has {len(addresses[job])} addresses. Received: {index}."
        )
    return Cluster(addresses, job, index)


def _member(value: Any, name: str, kind: type, prefix: str = "") -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        words = {dict: "an object", str: "a text", int: "a whole number"}
        raise ClusterError(
            f"TF_CONFIG's {prefix}{name} must be {words[kind]}. Received: {json.dumps(found)}."
        )
    return found


def _addresses(cluster: dict[str, Any]) -> dict[str, list[str]]:
    unknown = sorted(cluster.keys() - set(_JOBS))
    if unknown:
        raise ClusterError(
            f"TF_CONFIG's cluster may have chief and worker, all of which train. Received: "
            f"{', '.join(unknown)}."
        )
    if not cluster.get("worker"):
        raise ClusterError("TF_CONFIG's cluster.worker must list the workers' addresses.")
    addresses = {job: cluster[job] for job in _JOBS if job in cluster}
    for job, hosts in addresses.items():
        if not isinstance(hosts, list) or not all(_is_address(host) for host in hosts):
            raise ClusterError(
                f'TF_CONFIG\'s cluster.{job} must be a list of "HOST:PORT". Received: '
                f"{json.dumps(hosts)}."
            )
    if len(addresses.get("chief", [""])) != 1:
        raise ClusterError("TF_CONFIG's cluster.chief must be one address.")
    everyone = [host for hosts in addresses.values() for host in hosts]
    if len(set(everyone)) < len(everyone):
        raise ClusterError(f"TF_CONFIG names an address twice. Received: {', '.join(everyone)}.")
    return addresses


def _is_address(value: Any) -> bool:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def silent(cluster: Cluster) -> list[str]:
    """The other workers that take no connection, as ``worker 1 (host:port)``."""
    # All at once: each may take seconds.
    with ThreadPoolExecutor(max_workers=32) as threads:
        takes = list(threads.map(_takes, cluster.peers.values()))
    peers = zip(cluster.peers.items(), takes, strict=True)
    return [f"{name} ({address})" for (name, address), answers in peers if not answers]


def _takes(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True
