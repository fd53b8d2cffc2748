"""What other teams build on: the stack's outputs, typed and versioned, and the reader for them.

Another Pulumi program reads them with `read(pulumi.StackReference("ORGANISATION/groundwork/dev"))`. No value in it is secret: it names
the Secrets, it does not open them. A change that would break a reader gets a new `VERSION`; docs/outputs.schema.json is generated from here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import pulumi
from pydantic import BaseModel, ConfigDict, ValidationError

from components.contracts import Credentials, Endpoint

VERSION = 1


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointOutput(_Section):
    """Where a server listens. `ca` names the ConfigMap whose `ca.crt` verifies it; None means that it speaks no TLS of its own."""

    host: str
    port: int
    ca: str | None


class CertificateAuthorityOutput(_Section):
    """The stack's CA: the ConfigMap in the stack's namespace that holds it under `ca.crt`, and the same in PEM."""

    config_map: str
    pem: str


class PlatformOutputs(_Section):
    """Version 1 of the contract.

    `endpoints` are the engines by name, `services` the URLs of the HTTP services by name, `secrets` the names of the credentials
    Secrets by engine and client. All names are names in `namespace`.
    """

    version: Literal[1]
    stack: str
    namespace: str
    ca: CertificateAuthorityOutput
    endpoints: dict[str, EndpointOutput]
    services: dict[str, str]
    secrets: dict[str, dict[str, str]]


class IncompatibleOutputs(pulumi.RunError):
    """The other stack's outputs are not of the version that this reader knows."""


@dataclass(frozen=True)
class Engine:
    """What an engine contributes to the outputs."""

    endpoint: Endpoint
    credentials: Mapping[str, Credentials]


def export(
    *,
    stack: str,
    namespace: pulumi.Input[str],
    ca: pulumi.Input[str],
    ca_pem: pulumi.Input[str],
    engines: Mapping[str, Engine],
    services: Mapping[str, Endpoint],
) -> None:
    """Exports the contract from the running program, one stack output for each field."""
    pulumi.export("version", VERSION)
    pulumi.export("stack", stack)
    pulumi.export("namespace", namespace)
    pulumi.export("ca", {"config_map": ca, "pem": ca_pem})
    pulumi.export("endpoints", {name: {"host": e.endpoint.host, "port": e.endpoint.port, "ca": e.endpoint.ca} for name, e in engines.items()})
    pulumi.export("services", {name: pulumi.Output.format("http://{0}:{1}", e.host, e.port) for name, e in services.items()})
    pulumi.export("secrets", {name: {client: c.secret for client, c in e.credentials.items()} for name, e in engines.items()})


def parse(values: Mapping[str, object]) -> PlatformOutputs:
    """The outputs as they stand in a stack's state. Raises IncompatibleOutputs."""
    version = values.get("version")
    if version != VERSION:
        raise IncompatibleOutputs(
            f"the platform's outputs have version {version!r}, this reader knows {VERSION}: use the Groundwork release of that stack"
        )
    try:
        return PlatformOutputs.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors(include_input=False))
        raise IncompatibleOutputs(f"the platform's outputs do not follow version {VERSION} of the contract: {problems}") from None


def read(reference: pulumi.StackReference) -> pulumi.Output[PlatformOutputs]:
    """The outputs of another stack, typed. Raises IncompatibleOutputs when they arrive."""
    names = list(PlatformOutputs.model_fields)
    collected = pulumi.Output.all(*(reference.require_output(name) for name in names))

    def typed(values: list[object]) -> PlatformOutputs:
        # The engine keeps every number as a float.
        return parse({name: integers(value) for name, value in zip(names, values, strict=True)})

    return collected.apply(typed)


def integers(value: object) -> object:
    """`value` with whole floats as integers, all the way down."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: integers(inner) for key, inner in cast("Mapping[str, object]", value).items()}
    return value


def schema() -> str:
    """The contract as JSON schema: docs/outputs.schema.json, written by `python -m stacks.outputs > docs/outputs.schema.json`."""
    return json.dumps(PlatformOutputs.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
