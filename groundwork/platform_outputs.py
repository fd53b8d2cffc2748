"""The contract with other teams: a stack's outputs, typed and versioned, and the reader for them.

Another Pulumi program reads them with `read(pulumi.StackReference("organization/groundwork/dev"))`. With Pulumi Cloud the first word is the
organisation's own name; every other backend (a bucket, a folder) has this word there. No value in them is secret: they name the Secrets,
they do not open them. A change that would break a reader gets a new `VERSION`; what is added does not, and an older reader passes over it,
at every depth. What was added later has a default here, for the outputs of an older stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from groundwork.errors import PlatformError

if TYPE_CHECKING:
    import pulumi

VERSION = 1


class _Section(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class EndpointOutput(_Section):
    """Where a server listens. `ca` names the ConfigMap whose `ca.crt` verifies it; None means that it speaks no TLS of its own."""

    host: str
    port: int
    ca: str | None


class CertificateAuthorityOutput(_Section):
    """The CAs that clients trust: the ConfigMap in the stack's namespace that holds them under `ca.crt`, and the same in PEM."""

    config_map: str
    pem: str


class PlatformOutputs(_Section):
    """Version 1 of the contract.

    `endpoints` are the engines by name, `services` the URLs of the HTTP services by name, `secrets` the names of the credentials
    Secrets by engine and client. All names are names in `namespace`. `certificates` says when each server's certificate ends, and the
    signing authority's, as `ca`. `runtime_image` is the image of the platform's own services.
    """

    version: Literal[1]
    stack: str
    namespace: str
    ca: CertificateAuthorityOutput
    endpoints: dict[str, EndpointOutput]
    services: dict[str, str]
    secrets: dict[str, dict[str, str]]
    certificates: Mapping[str, datetime] = {}
    runtime_image: str | None = None

    def days_left(self, now: datetime | None = None) -> dict[str, int]:
        """The whole days that each certificate still has, the first to end first."""
        today = now or datetime.now(UTC)
        return {name: (end - today).days for name, end in sorted(self.certificates.items(), key=lambda item: item[1])}


class IncompatibleOutputs(PlatformError):
    """The other stack's outputs are not of the version that this reader knows, or not Groundwork's at all."""


def parse(values: Mapping[str, object]) -> PlatformOutputs:
    """The outputs as they stand in a stack's state. Raises IncompatibleOutputs."""
    version = values.get("version")
    if version is None:
        raise IncompatibleOutputs(
            "that stack has no outputs of Groundwork: look whether its name is right (organization/groundwork/STACK), and run `pulumi up` on it"
        )
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
    """The outputs of another stack, typed. Raises IncompatibleOutputs when they arrive, of which Pulumi prints the message alone."""
    from pulumi import Output, RunError  # noqa: PLC0415 - whoever has a StackReference has Pulumi; services have not

    class UnreadableStack(IncompatibleOutputs, RunError):
        """The same as an error of a Pulumi program: one without RunError would be printed with its traceback."""

    def typed(values: Mapping[str, object]) -> PlatformOutputs:
        try:
            # The engine keeps every number as a float; what the stack does not say is None.
            return parse({name: integers(value) for name, value in values.items() if value is not None})
        except IncompatibleOutputs as error:
            raise UnreadableStack(str(error)) from None

    return Output.all(**{name: reference.get_output(name) for name in PlatformOutputs.model_fields}).apply(typed)


def integers(value: object) -> object:
    """`value` with whole floats as integers, all the way down."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: integers(inner) for key, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [integers(inner) for inner in cast("list[object]", value)]
    return value
