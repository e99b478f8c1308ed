"""The command that starts a Beam worker where a cluster runs no containers.

With ``--environment_type=PROCESS`` each task manager starts this command, as it would start that
of Beam's SDK container: it gets an address, and asks there for whom to work and how.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import json_format, text_format


def main(argv: Sequence[str] | None = None) -> None:
    """Works until the task manager closes the connection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    flags, _ = parser.parse_known_args(argv)
    info = _provision_info(flags.provision_endpoint, flags.id)
    os.environ.update(
        WORKER_ID=flags.id,
        PIPELINE_OPTIONS=json_format.MessageToJson(info.pipeline_options),
        CONTROL_API_SERVICE_DESCRIPTOR=text_format.MessageToString(info.control_endpoint),
        LOGGING_API_SERVICE_DESCRIPTOR=text_format.MessageToString(info.logging_endpoint),
        RUNNER_CAPABILITIES=" ".join(info.runner_capabilities),
    )
    sdk_worker_main.main(sys.argv)


def _provision_info(endpoint: str, worker_id: str) -> Any:
    with grpc.insecure_channel(endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        return service.GetProvisionInfo(request, metadata=[("worker_id", worker_id)]).info


if __name__ == "__main__":
    main()
