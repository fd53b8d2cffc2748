"""The stack's outputs, as groundwork/platform_outputs.py promises them to other teams."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.certificates import Certificates
from components.lib.contracts import Endpoint
from groundwork.platform_outputs import VERSION, PlatformOutputs


@dataclass(frozen=True)
class EngineOutputs:
    """What an engine contributes: where it is, and the name of each client's Secret."""

    endpoint: Endpoint
    secrets: Mapping[str, str]


def export(
    *,
    stack: str,
    namespace: pulumi.Input[str],
    certificates: Certificates,
    engines: Mapping[str, EngineOutputs],
    services: Mapping[str, Endpoint],
    runtime_image: pulumi.Input[str],
) -> None:
    """Exports the contract from the running program, one stack output for each field."""
    pulumi.export("version", VERSION)
    pulumi.export("stack", stack)
    pulumi.export("namespace", namespace)
    pulumi.export("ca", {"config_map": certificates.ca, "pem": certificates.ca_pem})
    pulumi.export("endpoints", {name: {"host": e.endpoint.host, "port": e.endpoint.port, "ca": e.endpoint.ca} for name, e in engines.items()})
    pulumi.export("services", {name: f"http://{e.host}:{e.port}" for name, e in services.items()})
    pulumi.export("secrets", {name: dict(e.secrets) for name, e in engines.items()})
    pulumi.export("certificates", certificates.valid_until)
    pulumi.export("runtime_image", runtime_image)


def schema() -> str:
    """The contract as JSON schema: docs/outputs.schema.json, written by `python -m stacks.outputs > docs/outputs.schema.json`."""
    return json.dumps(PlatformOutputs.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
