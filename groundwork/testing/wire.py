"""Rows of the simulator's store, and how requests and answers write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

Json = Mapping[str, object]


@dataclass(frozen=True)
class Key:
    """A stored value."""

    value: bytes
    create_index: int
    modify_index: int
    flags: int = 0
    session: str = ""
    lock_index: int = 0


@dataclass(frozen=True)
class Service:
    """An instance on a node, fields as Consul names them in lower case."""

    node: str
    id: str
    service: str
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    passing: int = 1
    warning: int = 1
    create_index: int = 0
    modify_index: int = 0


@dataclass(frozen=True)
class Check:
    """A check of a node, or of a service on it."""

    node: str
    check_id: str
    name: str = ""
    status: str = "critical"
    output: str = ""
    notes: str = ""
    service_id: str = ""
    service_name: str = ""
    create_index: int = 0
    modify_index: int = 0


@dataclass(frozen=True)
class Node:
    """A node of the catalog."""

    address: str
    meta: tuple[tuple[str, str], ...] = ()


class KvOperation(msgspec.Struct, rename="pascal"):
    """An operation on a key."""

    verb: str
    key: str
    value: bytes | None = None
    index: int = 0
    session: str = ""


class NodeWire(msgspec.Struct, rename="pascal"):
    """A node in a request."""

    node: str
    address: str = ""
    meta: dict[str, str] | None = None


class WeightsWire(msgspec.Struct, rename="pascal"):
    """Weights in a request."""

    passing: int = 1
    warning: int = 1


class ServiceWire(msgspec.Struct, rename="pascal"):
    """A service in a request."""

    id: str = msgspec.field(name="ID", default="")
    service: str = ""
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None
    weights: WeightsWire | None = None


class CheckWire(msgspec.Struct, rename="pascal"):
    """A check in a request."""

    node: str
    check_id: str = msgspec.field(name="CheckID")
    name: str = ""
    status: str = "critical"
    output: str = ""
    notes: str = ""
    service_id: str = msgspec.field(name="ServiceID", default="")


class NodeOperation(msgspec.Struct, rename="pascal"):
    """An operation on a node."""

    verb: str
    node: NodeWire


class ServiceOperation(msgspec.Struct, rename="pascal"):
    """An operation on a service."""

    verb: str
    node: str
    service: ServiceWire


class CheckOperation(msgspec.Struct, rename="pascal"):
    """An operation on a check."""

    verb: str
    check: CheckWire


class Operation(msgspec.Struct, rename="pascal"):
    """One operation of a transaction: exactly one field is set."""

    kv: KvOperation | None = msgspec.field(name="KV", default=None)
    node: NodeOperation | None = None
    service: ServiceOperation | None = None
    check: CheckOperation | None = None


def pairs(meta: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Metadata as sorted pairs."""
    return tuple(sorted((meta or {}).items()))


def service_row(node: str, wire: ServiceWire) -> Service:
    """A service from a request."""
    weights = wire.weights or WeightsWire()
    return Service(
        node, wire.id or wire.service, wire.service, wire.address, wire.port, wire.tags or (), pairs(wire.meta), weights.passing, weights.warning
    )


def check_row(wire: CheckWire) -> Check:
    """A check from a request."""
    return Check(wire.node, wire.check_id, wire.name, wire.status, wire.output, wire.notes, wire.service_id)


def key_json(key: str, entry: Key) -> dict[str, object]:
    """A key as Consul writes it."""
    found: dict[str, object] = {
        "LockIndex": entry.lock_index,
        "Key": key,
        "Flags": entry.flags,
        "Value": entry.value or None,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    }
    return found | ({"Session": entry.session} if entry.session else {})


def service_json(row: Service) -> dict[str, object]:
    """A service as Consul writes it."""
    return {
        "ID": row.id,
        "Service": row.service,
        "Tags": list(row.tags),
        "Address": row.address,
        "TaggedAddresses": {"lan_ipv4": {"Address": row.address, "Port": row.port}, "wan_ipv4": {"Address": row.address, "Port": row.port}},
        "Meta": dict(row.meta) or None,
        "Port": row.port,
        "Weights": {"Passing": row.passing, "Warning": row.warning},
        "EnableTagOverride": False,
        "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "Connect": {},
        "PeerName": "",
        "CreateIndex": row.create_index,
        "ModifyIndex": row.modify_index,
    }


def check_json(row: Check) -> dict[str, object]:
    """A check as Consul writes it."""
    return {
        "Node": row.node,
        "CheckID": row.check_id,
        "Name": row.name,
        "Status": row.status,
        "Notes": row.notes,
        "Output": row.output,
        "ServiceID": row.service_id,
        "ServiceName": row.service_name,
        "ServiceTags": [],
        "Type": "",
        "Interval": "",
        "Timeout": "",
        "ExposedPort": 0,
        "Definition": {},
        "CreateIndex": row.create_index,
        "ModifyIndex": row.modify_index,
    }
