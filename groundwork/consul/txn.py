"""The operations of a transaction. All of them happen or none (https://developer.hashicorp.com/consul/api-docs/txn, at most 128)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from groundwork.consul.models import CheckEntry, KvWire, NodeEntry, ServiceRecord, Weights

MAX_OPERATIONS = 128
DEFAULT_WEIGHTS = Weights()

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class KvSet:
    """Write a key whatever it holds."""

    key: str
    value: bytes

    def wire(self) -> Json:
        """The operation as Consul reads it; the same for all operations below."""
        return {"KV": {"Verb": "set", "Key": self.key, "Value": b64encode(self.value).decode()}}


@dataclass(frozen=True, slots=True)
class KvCas:
    """Write a key that still has this index; 0: that does not exist."""

    key: str
    value: bytes
    index: int

    def wire(self) -> Json:
        return {"KV": {"Verb": "cas", "Key": self.key, "Value": b64encode(self.value).decode(), "Index": self.index}}


@dataclass(frozen=True, slots=True)
class KvGet:
    """Read a key within the transaction, which fails where the key does not exist."""

    key: str

    def wire(self) -> Json:
        return {"KV": {"Verb": "get", "Key": self.key}}


@dataclass(frozen=True, slots=True)
class KvDelete:
    """Remove a key; fine where it does not exist."""

    key: str

    def wire(self) -> Json:
        return {"KV": {"Verb": "delete", "Key": self.key}}


@dataclass(frozen=True, slots=True)
class KvDeleteCas:
    """Remove a key that still has this index. Consul lets it pass, without deleting, where the key does not exist."""

    key: str
    index: int

    def wire(self) -> Json:
        return {"KV": {"Verb": "delete-cas", "Key": self.key, "Index": self.index}}


@dataclass(frozen=True, slots=True)
class KvCheckIndex:
    """Hold only while the key still has this index."""

    key: str
    index: int

    def wire(self) -> Json:
        return {"KV": {"Verb": "check-index", "Key": self.key, "Index": self.index}}


@dataclass(frozen=True, slots=True)
class KvCheckNotExists:
    """Hold only while the key does not exist."""

    key: str

    def wire(self) -> Json:
        return {"KV": {"Verb": "check-not-exists", "Key": self.key}}


@dataclass(frozen=True, slots=True)
class KvCheckSession:
    """Hold only while this session holds the key's lock."""

    key: str
    session: str

    def wire(self) -> Json:
        return {"KV": {"Verb": "check-session", "Key": self.key, "Session": self.session}}


@dataclass(frozen=True, slots=True)
class NodeSet:
    """Create or replace a node of the catalog; a virtual one has no agent."""

    node: str
    address: str
    meta: Mapping[str, str] = field(default_factory=dict[str, str])

    def wire(self) -> Json:
        return {"Node": {"Verb": "set", "Node": {"Node": self.node, "Address": self.address, "Meta": dict(self.meta)}}}


@dataclass(frozen=True, slots=True)
class NodeDelete:
    """Remove a node with everything on it."""

    node: str

    def wire(self) -> Json:
        return {"Node": {"Verb": "delete", "Node": {"Node": self.node}}}


@dataclass(frozen=True, slots=True)
class ServiceSet:
    """Create or replace a service on a node."""

    node: str
    id: str
    service: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict[str, str])
    weights: Weights = DEFAULT_WEIGHTS

    def wire(self) -> Json:
        service = {
            "ID": self.id,
            "Service": self.service,
            "Address": self.address,
            "Port": self.port,
            "Tags": list(self.tags),
            "Meta": dict(self.meta),
            "Weights": {"Passing": self.weights.passing, "Warning": self.weights.warning},
        }
        return {"Service": {"Verb": "set", "Node": self.node, "Service": service}}


@dataclass(frozen=True, slots=True)
class ServiceDelete:
    """Remove a service and its checks from a node; fine where it does not exist. Consul wants some name beside the id and goes by the id."""

    node: str
    id: str
    service: str = ""

    def wire(self) -> Json:
        return {"Service": {"Verb": "delete", "Node": self.node, "Service": {"ID": self.id, "Service": self.service or self.id}}}


@dataclass(frozen=True, slots=True)
class CheckSet:
    """Create or replace a check. `service_id` empty: of the node, which counts for every service on it."""

    node: str
    check_id: str
    name: str
    status: str
    service_id: str = ""
    output: str = ""
    notes: str = ""

    def wire(self) -> Json:
        check = {
            "Node": self.node,
            "CheckID": self.check_id,
            "Name": self.name,
            "Status": self.status,
            "ServiceID": self.service_id,
            "Output": self.output,
            "Notes": self.notes,
        }
        return {"Check": {"Verb": "set", "Check": check}}


@dataclass(frozen=True, slots=True)
class CheckDelete:
    """Remove a check from a node."""

    node: str
    check_id: str

    def wire(self) -> Json:
        return {"Check": {"Verb": "delete", "Check": {"Node": self.node, "CheckID": self.check_id}}}


TxnOperation = (
    KvSet
    | KvCas
    | KvGet
    | KvDelete
    | KvDeleteCas
    | KvCheckIndex
    | KvCheckNotExists
    | KvCheckSession
    | NodeSet
    | NodeDelete
    | ServiceSet
    | ServiceDelete
    | CheckSet
    | CheckDelete
)


class TxnResult(msgspec.Struct, frozen=True, rename="pascal"):
    """What one operation left behind; checks and deletes leave nothing, so results are fewer than operations."""

    kv: KvWire | None = msgspec.field(name="KV", default=None)
    node: NodeEntry | None = None
    service: ServiceRecord | None = None
    check: CheckEntry | None = None


class TxnErrorWire(msgspec.Struct, frozen=True, rename="pascal"):
    """Why an operation failed."""

    op_index: int = 0
    what: str = ""


class TxnAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """Results or errors, never both."""

    results: tuple[TxnResult, ...] | None = None
    errors: tuple[TxnErrorWire, ...] | None = None
