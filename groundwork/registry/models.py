"""What is registered: the wish of an instance (`Registration`) and what the registry keeps about it (`Record`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator

from groundwork.discovery.models import Instance, Status
from groundwork.settings import Port, ServiceName

MIN_TTL, MAX_TTL = 1.0, 3600.0  # seconds
MIN_INTERVAL = 5.0
MIN_DEREGISTER = 60.0  # seconds: Consul's own floor (api-docs/agent/check)
MAX_DEREGISTER = 7 * 86400.0
MAX_TAGS, MAX_META = 64, 64  # Consul keeps 64 pairs, keys of 128 and values of 512 characters (agent/structs)

Address = IPv4Address | IPv6Address

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>ms|s|m|h)")
_HOST = re.compile(r"(?=.{1,253}$)[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*")


def seconds(text: str) -> float:
    """The seconds of a duration such as `30s`, `500ms` or `30m`.

    Raises ValueError for anything else.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: write a number and ms, s, m or h, such as 30s")
    return int(match["number"]) * _UNITS[match["unit"]]


def _ttl(text: str) -> str:
    if not MIN_TTL <= seconds(text) <= MAX_TTL:
        raise ValueError(f"ttl must be from {MIN_TTL:.0f}s to {MAX_TTL:.0f}s")
    return text


def _interval(text: str) -> str:
    if not MIN_INTERVAL <= seconds(text) <= MAX_TTL:
        raise ValueError(f"interval must be from {MIN_INTERVAL:.0f}s to {MAX_TTL:.0f}s")
    return text


def _deregister(text: str) -> str:
    if not MIN_DEREGISTER <= seconds(text) <= MAX_DEREGISTER:
        raise ValueError(f"deregister_after must be from {MIN_DEREGISTER:.0f}s to 168h, much longer than any outage that may pass")
    return text


def literal(text: str) -> Address | None:
    """The IP address that `text` is; None for anything else, one with a scope included.

    A scope (`fe80::1%eth0`) means something on one machine only, and ipaddress takes any text for one: `::1%]@[::2` would be an address too.
    """
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def _address(text: str) -> str:
    address = literal(text)
    if address is None:
        if _HOST.fullmatch(text) is None or text.rsplit(".", 1)[-1][:1].isdigit():  # 127.1 and 0x7f000001 are no host names
            raise ValueError("must be an IP address without a scope, or a host name")
        return text
    if address.is_unspecified or address.is_multicast:
        raise ValueError("must be the address of one host")
    return str(address)


ServiceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=:/-]{0,127}$")]
MetaKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
MetaValue = Annotated[str, StringConstraints(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]


class CheckSpec(BaseModel):
    """How the registry knows that the instance lives. `ttl`: it renews its lease within that time, or it is critical. `http`: the registry
    asks it every `interval`. After `deregister_after` in that state it is gone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["ttl", "http"] = "ttl"
    ttl: Annotated[str, AfterValidator(_ttl)] = Field(default="30s", description="the lease; renew it three times as often")
    interval: Annotated[str, AfterValidator(_interval)] = "10s"
    deregister_after: Annotated[str, AfterValidator(_deregister)] = "30m"

    @property
    def ttl_seconds(self) -> float:
        """The lease's length."""
        return seconds(self.ttl)

    @property
    def interval_seconds(self) -> float:
        """Between two HTTP checks."""
        return seconds(self.interval)

    @property
    def deregister_after_seconds(self) -> float:
        """How long after the end of its lease an instance is forgotten."""
        return seconds(self.deregister_after)


class Registration(BaseModel):
    """An instance as it registers itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    service_name: ServiceName = Field(examples=["user-service"])
    service_id: ServiceId = Field(examples=["user-service-001"])
    address: Annotated[str, StringConstraints(max_length=253), AfterValidator(_address)] = Field(examples=["10.1.2.3"])
    port: Port = Field(examples=[8001])
    health_check: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]{0,255}$")] = "/health/ready"
    check: CheckSpec = CheckSpec()
    tags: Annotated[tuple[Tag, ...], Field(max_length=MAX_TAGS)] = ()
    metadata: Annotated[dict[MetaKey, MetaValue], Field(max_length=MAX_META)] = {}
    weight: Annotated[int, Field(ge=1, le=65535)] = 1

    @property
    def ip(self) -> Address | None:
        """The address as an IP address; None where it is a host name. Whoever connects uses this and never the text."""
        return literal(self.address)

    @field_validator("tags")
    @classmethod
    def _sorted(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(tags)))

    @field_validator("health_check")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        if "//" in path or ".." in path:
            raise ValueError("must be a plain path such as /health/ready")
        return path


class Record(BaseModel):
    """What the registry keeps about an instance. `status` is what its heartbeats say, or critical once the lease has lapsed.

    Times are for people; no decision is made from them. Every renewal changes the record, and that is what the sweeper watches.
    """

    model_config = ConfigDict(frozen=True)

    registration: Registration
    owner: str
    issuer: str = ""  # who vouched for the owner: two issuers may give two callers the same name
    registered_at: str
    renewed_at: str
    renewals: int = 0
    status: Status = Status.PASSING
    lapsed: bool = False
    maintenance: str | None = None

    @property
    def service_id(self) -> str:
        """The instance's id, unique within its service."""
        return self.registration.service_id

    @property
    def name(self) -> str:
        """Service and id, which together are unique: `user-service/user-service-001`."""
        return name_of(self.registration.service_name, self.registration.service_id)

    @classmethod
    def parsed(cls, name: str, value: bytes) -> Self:
        """The record that is stored under `name`. What a later version added to it is left out.

        Raises ValueError where this version cannot read it, or where it is another one's.
        """
        record = cls.model_validate_json(value, extra="ignore")
        if record.name != name:
            raise ValueError(f"the record stored as {name} says that it is {record.name}")
        return record

    @property
    def effective_status(self) -> Status:
        """What discovery tells others."""
        return Status.MAINTENANCE if self.maintenance is not None else self.status

    def instance(self) -> Instance:
        """The instance as discovery sees it."""
        wish = self.registration
        return Instance(
            id=wish.service_id,
            service=wish.service_name,
            address=wish.address,
            port=wish.port,
            status=self.effective_status,
            tags=wish.tags,
            meta=tuple(sorted(wish.metadata.items())),
            weight=wish.weight,
        )

    def changed(self, **update: object) -> Self:
        """A copy with other values."""
        return self.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class Stored:
    """A record and the index of its last change, for writes that must not overwrite somebody else's."""

    record: Record
    index: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Records sorted by name. `unreadable` are the names of what is stored among them and is no record that this version can read.

    `following` is the name after which the next page begins, None on the last one.
    """

    stored: tuple[Stored, ...]
    unreadable: tuple[str, ...] = ()
    following: str | None = None


def name_of(service: str, service_id: str) -> str:
    """The name under which an instance is stored: neither part can hold a slash."""
    return f"{service}/{service_id}"
