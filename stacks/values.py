"""Values that a stack file may hold, each checked as it is read, and the sections that they stand in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from components.lib import accounts, stateful, workload

Value = TypeVar("Value")

PORTS = range(1, 65536)
# Beyond these a number is a slip of the pen: more than the largest machines that clouds rent out have.
MAX_CPU_M = 2_000_000
MAX_MEMORY_MIB = 32 * 1024 * 1024
MAX_SCRATCH_MIB = 1024 * 1024

_SERVICE = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")  # RFC 1035: a Service's name begins with a letter
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")  # RFC 1123
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# A registry with its port, and the path: https://github.com/distribution/reference
_NAME = re.compile(r"([A-Za-z0-9.-]+(:\d+)?/|\[[0-9a-f:]+\](:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*")
# A tag that people move on: no digits at all (`latest`, `main`, `stable-bookworm`), or a major version alone (`17`, `v17`, `17-bookworm`).
_MOVING_TAG = re.compile(r"[^\d.]*|v?\d{1,3}(-[a-z][a-z-]*)?")

LOCAL = "localhost/"  # an image that is on the nodes and nowhere else: its tag is moved by nobody


def is_service(value: str) -> str:
    """A name that a service may have, and everything that is named after it. Raises ValueError."""
    if len(value) > accounts.MAX_NAME or not _SERVICE.fullmatch(value):
        raise ValueError(f"cannot be a service's name: use at most {accounts.MAX_NAME} of a-z, 0-9 and -, a letter first")
    return value


def is_label(value: str) -> str:
    """One part of a DNS name, as a namespace has it. Raises ValueError."""
    if len(value) > 63 or not _LABEL.fullmatch(value):
        raise ValueError("is no DNS label: use at most 63 of a-z, 0-9 and -, no - first or last")
    return value


def is_dns_name(value: str) -> str:
    """A DNS name of one part or several, such as cluster.local. Raises ValueError."""
    if len(value) > 253 or not all(len(part) <= 63 and _LABEL.fullmatch(part) for part in value.split(".")):
        raise ValueError("is no DNS name: use a-z, 0-9 and -, in parts of at most 63 with a dot between them, at most 253 in all")
    return value


def is_cidr(value: str) -> str:
    """A block of addresses such as 10.0.0.0/8 or fd00::/8. Raises ValueError."""
    try:
        block = ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"is no block of addresses ({error}): write it like 10.0.0.0/8 or fd00::/8") from None
    if isinstance(block, ipaddress.IPv6Network) and (block.network_address.scope_id or block.network_address.ipv4_mapped):
        raise ValueError("is a block that no NetworkPolicy takes: leave the zone out, and write an IPv4 block as such")
    return str(block)


def is_port(value: int) -> int:
    """A port. Raises ValueError."""
    if value not in PORTS:
        raise ValueError("is no port: use 1 to 65535")
    return value


def is_filled(value: tuple[Value, ...]) -> tuple[Value, ...]:
    """A list with something in it. Raises ValueError."""
    if not value:
        raise ValueError("is empty: name at least one")
    return value


def is_url(value: str) -> str:
    """An HTTP address. Raises ValueError."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", value)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("is no URL: write it like https://host/path")
    return value


def is_pinned(value: str) -> str:
    """An image reference with an exact tag or digest. Raises ValueError for a moving one."""
    reference, at, digest = value.partition("@")
    last = reference.rpartition("/")[2]
    tag = last.partition(":")[2]
    name = reference.removesuffix(f":{tag}") if tag else reference
    if not _NAME.fullmatch(name) or (":" in last and not _TAG.fullmatch(tag)):
        raise ValueError("is no image: write it like registry.example.com/team/name:1.2.3")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError("has no valid digest after `@`: write NAME@sha256: and 64 hexadecimal digits")
    if not at and (not tag or (_MOVING_TAG.fullmatch(tag) and not value.startswith(LOCAL)) or tag == "latest"):
        raise ValueError("names a moving image: write an exact tag such as :1.2.3, or a digest")
    if "bitnami" in value:
        raise ValueError("is a Bitnami image, which gets no updates any more: use the official one")
    return value


# The description is the type's name in docs/settings.md.
ServiceName = Annotated[str, AfterValidator(is_service), Field(description="service's name")]
DnsLabel = Annotated[str, AfterValidator(is_label), Field(description="DNS label")]
DnsName = Annotated[str, AfterValidator(is_dns_name), Field(description="DNS name")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9.-]{0,251}[a-z0-9]/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")]
Filled = AfterValidator(is_filled)
Cidr = Annotated[str, AfterValidator(is_cidr), Field(description="block of addresses")]
Port = Annotated[int, AfterValidator(is_port), Field(description="port")]
Url = Annotated[str, AfterValidator(is_url), Field(description="URL")]
ImageReference = Annotated[str, AfterValidator(is_pinned), Field(description="image")]


class Section(BaseModel):
    """A part of a stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ResourceSettings(Section):
    """One pod's CPU in millicores, and memory and scratch space (/tmp) in MiB."""

    cpu_m: Annotated[int, Field(ge=1, le=MAX_CPU_M)]
    memory_mib: Annotated[int, Field(ge=16, le=MAX_MEMORY_MIB)]
    cpu_limit_m: Annotated[int, Field(ge=1, le=MAX_CPU_M, validate_default=True)] = 1000
    scratch_mib: Annotated[int, Field(ge=1, le=MAX_SCRATCH_MIB)] = 64

    @field_validator("cpu_limit_m")
    @classmethod
    def _not_below_the_request(cls, value: int, info: ValidationInfo) -> int:
        request: object = info.data.get("cpu_m")
        if isinstance(request, int) and value < request:
            raise ValueError(f"is below the request, cpu_m = {request}: raise the limit, or lower the request")
        return value

    def resources(self) -> workload.Resources:
        """The same as the components know it."""
        return workload.Resources(self.cpu_m, self.memory_mib, self.cpu_limit_m, self.scratch_mib)


class Sized(Section):
    """A section with `resources`. What they leave out stays as the section's default has it: half of them must not halve the other half."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, given: object) -> object:
        values: Mapping[str, object] = cast("Mapping[str, object]", given) if isinstance(given, Mapping) else {}
        resources, default = values.get("resources"), cls.model_fields["resources"].default
        if not isinstance(resources, Mapping) or not isinstance(default, ResourceSettings):
            return cast("object", given)
        return {**values, "resources": {**default.model_dump(), **cast("Mapping[str, object]", resources)}}


class EngineSettings(Sized):
    """An engine's volume in GiB and its pod's resources."""

    storage_gib: Annotated[int, Field(ge=1, le=stateful.MAX_STORAGE_GIB)] = 1
    resources: ResourceSettings
