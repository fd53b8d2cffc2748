"""The bodies of the REST APIs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from groundwork.discovery.client import ServiceSnapshot
from groundwork.discovery.models import Instance, Status
from groundwork.registry.models import Stored


class Lease(BaseModel):
    """For how long the registration holds and where it is renewed."""

    ttl_seconds: float
    heartbeat: str


class RegisteredAnswer(BaseModel):
    """An accepted registration."""

    service_id: str
    status: Literal["registered"] = "registered"
    registered_at: str
    lease: Lease
    generation: int = Field(description="changes with every write to this instance")

    @classmethod
    def of(cls, stored: Stored, path: str) -> RegisteredAnswer:
        """The answer about a stored record that lives at `path`."""
        record = stored.record
        return cls(
            service_id=record.service_id,
            registered_at=record.registered_at,
            lease=Lease(ttl_seconds=record.registration.check.ttl_seconds, heartbeat=f"{path}/heartbeat"),
            generation=stored.index,
        )


class Heartbeat(BaseModel):
    """How the instance feels."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["pass", "warn", "fail"] = "pass"

    @property
    def health(self) -> Status:
        """The same in discovery's words."""
        return {"pass": Status.PASSING, "warn": Status.WARNING, "fail": Status.CRITICAL}[self.status]


class Maintenance(BaseModel):
    """In or out of service."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool
    reason: Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class InstanceAnswer(BaseModel):
    """An instance as discovery tells it."""

    service_id: str
    service_name: str
    address: str
    port: int
    status: Status
    tags: tuple[str, ...]
    metadata: dict[str, str]
    weight: int

    @classmethod
    def of(cls, instance: Instance) -> InstanceAnswer:
        """The answer about an instance."""
        return cls(
            service_id=instance.id,
            service_name=instance.service,
            address=instance.address,
            port=instance.port,
            status=instance.status,
            tags=instance.tags,
            metadata=instance.metadata,
            weight=instance.weight,
        )


class ServicesAnswer(BaseModel):
    """The instances that were asked for, and how far to trust the answer."""

    services: list[InstanceAnswer]
    index: int = Field(description="pass it as `index` to wait for the next change")
    age_ms: int = Field(description="time since the back end last confirmed this; 0 while it is watched")
    stale: bool = Field(description="the back end is out of reach: this is the last good answer")

    @classmethod
    def of(cls, snapshot: ServiceSnapshot, instances: list[Instance]) -> ServicesAnswer:
        """The answer with `instances` out of `snapshot`."""
        return cls(
            services=[InstanceAnswer.of(instance) for instance in instances],
            index=snapshot.index,
            age_ms=round(snapshot.age * 1000),
            stale=snapshot.stale,
        )


class RegistrationAnswer(BaseModel):
    """A registration as the registry keeps it."""

    service_id: str
    service_name: str
    address: str
    port: int
    status: Status
    tags: tuple[str, ...]
    metadata: dict[str, str]
    registered_at: str
    renewed_at: str

    @classmethod
    def of(cls, stored: Stored) -> RegistrationAnswer:
        """The answer about a stored record."""
        record = stored.record
        return cls(
            service_id=record.service_id,
            service_name=record.registration.service_name,
            address=record.registration.address,
            port=record.registration.port,
            status=record.effective_status,
            tags=record.registration.tags,
            metadata=record.registration.metadata,
            registered_at=record.registered_at,
            renewed_at=record.renewed_at,
        )


class Page(BaseModel):
    """A page of registrations, by service and id."""

    services: list[RegistrationAnswer]
    next: str | None = Field(default=None, description="pass it as `after` for the next page; absent on the last one")
