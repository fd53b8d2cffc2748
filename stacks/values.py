"""Values that a stack file may hold, each checked as it is read, and the sections that they stand in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from components.lib import stateful, workload

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]  # RFC 1035: what a Service's name may be
PORTS = range(1, 65536)


def is_cidr(value: str) -> str:
    """A block of addresses such as 10.0.0.0/8. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"is no block of addresses ({error}): write it like 10.0.0.0/8") from None


def is_port(value: int) -> int:
    """A port. Raises ValueError."""
    if value not in PORTS:
        raise ValueError("is no port: use 1 to 65535")
    return value


# A tag that people move on: no digits at all (`latest`, `main`, `stable-bookworm`), or a major version alone (`17`, `v17`, `17-bookworm`).
_MOVING_TAG = re.compile(r"[^\d.]*|v?\d+(-[a-z][a-z-]*)?")


LOCAL = "localhost/"  # an image that is on the nodes and nowhere else: its tag is moved by nobody


def is_pinned(value: str) -> str:
    """An image reference with an exact tag or digest. Raises ValueError for a moving one."""
    name, _, digest = value.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError("has no valid digest after `@`: write NAME@sha256: and 64 hexadecimal digits")
    if not digest and (tag in {"", "latest"} or (_MOVING_TAG.fullmatch(tag) and not value.startswith(LOCAL))):
        raise ValueError("names a moving image: write an exact tag such as :1.2.3, or a digest")
    if "bitnami" in value:
        raise ValueError("is a Bitnami image, which gets no updates any more: use the official one")
    return value


Cidr = Annotated[str, AfterValidator(is_cidr)]
Port = Annotated[int, AfterValidator(is_port)]
ImageReference = Annotated[str, AfterValidator(is_pinned)]


class Section(BaseModel):
    """A part of a stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ResourceSettings(Section):
    """One pod's CPU in millicores, and memory and scratch space (/tmp) in MiB."""

    cpu_m: Annotated[int, Field(ge=1)]
    memory_mib: Annotated[int, Field(ge=16)]
    cpu_limit_m: Annotated[int, Field(ge=1)] = 1000
    scratch_mib: Annotated[int, Field(ge=1)] = 64

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.resources()
        return self

    def resources(self) -> workload.Resources:
        """The same as the components know it. Raises ValueError for a limit below its request."""
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
