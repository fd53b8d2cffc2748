"""Consul's answers as immutable structs, decoded from JSON without an intermediate dict. Only the fields that the runtime uses."""

from __future__ import annotations

import msgspec

from groundwork.backends.base import Consistency, Indexed

__all__ = ["CheckEntry", "Consistency", "Indexed", "KvEntry", "NodeEntry", "ServiceEntry", "ServiceRecord", "Session", "Weights"]


class KvEntry(msgspec.Struct, frozen=True):
    """A key and its value. `modify_index` is what `cas` takes. `session` holds the lock, empty where nobody does."""

    key: str
    value: bytes
    modify_index: int
    create_index: int = 0
    flags: int = 0
    session: str = ""


class KvWire(msgspec.Struct, frozen=True, rename="pascal"):
    """KvEntry as Consul writes it: the value in base64, null where it is empty."""

    key: str
    modify_index: int
    value: bytes | None = None
    create_index: int = 0
    flags: int = 0
    session: str = ""

    def entry(self) -> KvEntry:
        """The entry that this stands for."""
        return KvEntry(self.key, self.value or b"", self.modify_index, self.create_index, self.flags, self.session)


class NodeEntry(msgspec.Struct, frozen=True, rename="pascal"):
    """A node of the catalog."""

    node: str
    address: str = ""
    meta: dict[str, str] | None = None


class Weights(msgspec.Struct, frozen=True, rename="pascal"):
    """Share of the requests while passing and while warning."""

    passing: int = 1
    warning: int = 1


class ServiceRecord(msgspec.Struct, frozen=True, rename="pascal"):
    """A service as it is registered. Lists and maps may be null in Consul's answers."""

    id: str = msgspec.field(name="ID")
    service: str
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None
    weights: Weights = Weights()
    modify_index: int = 0
    create_index: int = 0


class CheckEntry(msgspec.Struct, frozen=True, rename="pascal"):
    """A health check of a node (`service_id` empty) or of a service."""

    check_id: str = msgspec.field(name="CheckID")
    status: str
    node: str = ""
    name: str = ""
    output: str = ""
    notes: str = ""
    service_id: str = msgspec.field(name="ServiceID", default="")
    service_name: str = ""
    modify_index: int = 0


class ServiceEntry(msgspec.Struct, frozen=True, rename="pascal"):
    """An instance with its node and all checks that count for it."""

    node: NodeEntry
    service: ServiceRecord
    checks: tuple[CheckEntry, ...] | None = None


class Session(msgspec.Struct, frozen=True, rename="pascal"):
    """A session, which holds locks for as long as it is renewed."""

    id: str = msgspec.field(name="ID")
    ttl: str = msgspec.field(name="TTL", default="")
    name: str = ""
