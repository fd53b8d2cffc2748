"""The calls of Consul's HTTP API that the runtime needs, typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Literal, Self, TypeVar
from urllib.parse import quote

import msgspec
from aiohttp.abc import AbstractResolver
from prometheus_client import REGISTRY, CollectorRegistry

from groundwork.consul.errors import BadAnswer, FilteredByAccessList, OperationError, SessionUnknown, TxnConflict
from groundwork.consul.metrics import consul_metrics
from groundwork.consul.models import CheckEntry, Consistency, Indexed, KvEntry, KvWire, NodeEntry, ServiceEntry, ServiceRecord, Session
from groundwork.consul.transport import Answer, Transport, TransportLimits, require
from groundwork.consul.txn import MAX_OPERATIONS, TxnAnswer, TxnOperation, TxnResult
from groundwork.errors import InvalidRequest, PayloadTooLarge, PermissionDenied
from groundwork.settings import ConsulSettings

MAX_VALUE: Final = 512 * 1024  # kv_max_value_size (api-docs/kv)
MAX_KEY: Final = 512
MAX_INDEX: Final = 2**63  # no log gets that far, and waiting on it would be waiting for ever

T = TypeVar("T")
Params = dict[str, str | None]


class ConsulClient:
    """A client of one Consul agent or server. Use it as an async context manager; calls may run concurrently.

    Every call raises PlatformError of the kind that happened, see `groundwork.consul.errors`, within the deadlines of `limits`.
    Calls with `index` wait up to `wait` seconds for a change (a blocking query); a return is no guarantee that there was one.
    """

    def __init__(
        self,
        settings: ConsulSettings,
        *,
        limits: TransportLimits | None = None,
        registry: CollectorRegistry = REGISTRY,
        resolver: AbstractResolver | None = None,
        datacenter: str = "",
    ) -> None:
        self.settings = settings
        self._transport = Transport(settings, limits or TransportLimits(), consul_metrics(registry), resolver=resolver)
        self._common: Params = {"dc": datacenter} if datacenter else {}

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._transport.__aexit__(kind, error, trace)

    # Reads that may block

    async def read(
        self, op: str, path: str, params: Mapping[str, str | None], *, index: int | None, wait: float | None, consistency: Consistency
    ) -> tuple[Answer, Indexed[None]]:
        """One read, not decoded, with what its headers say.

        Raises FilteredByAccessList where the token sees a part of the answer only.
        """
        query: Params = self._common | dict(params)
        if consistency is not Consistency.DEFAULT:
            query[consistency.value] = None
        blocking = index is not None
        seconds = 60.0 if wait is None else wait
        if blocking:
            query |= {"index": str(index), "wait": f"{max(1, round(seconds * 1000))}ms"}
        answer = await self._transport.send(op, "GET", path, query, wait=seconds if blocking else None)
        meta = _meta(answer.headers)
        if meta.filtered:
            raise FilteredByAccessList(f"Consul's answer to {op} is filtered by its access list: give the token read permission for all of it")
        return answer, meta

    async def kv_get(self, key: str, *, consistency: Consistency = Consistency.DEFAULT) -> KvEntry | None:
        """The key's entry, None where it does not exist."""
        answer, _ = await self.read("kv_get", _kv_path(key), {}, index=None, wait=None, consistency=consistency)
        found = decode_kv(answer)
        return found[0] if found else None

    async def kv_list(
        self, prefix: str, *, index: int | None = None, wait: float | None = None, consistency: Consistency = Consistency.DEFAULT
    ) -> Indexed[tuple[KvEntry, ...]]:
        """All entries whose key begins with `prefix`, sorted by key; one consistent state."""
        answer, meta = await self.read("kv_list", _kv_path(prefix, empty=True), {"recurse": None}, index=index, wait=wait, consistency=consistency)
        return _with(meta, decode_kv(answer))

    async def health_service(
        self,
        name: str,
        *,
        passing: bool = False,
        filter: str | None = None,  # noqa: A002 Consul's own name for it
        near: str | None = None,
        datacenter: str | None = None,
        cached: bool = False,
        index: int | None = None,
        wait: float | None = None,
        consistency: Consistency = Consistency.DEFAULT,
    ) -> Indexed[tuple[ServiceEntry, ...]]:
        """The instances of a service with their checks. `filter` is an expression evaluated by Consul. Unknown services have none.

        `cached` lets the agent answer from a cache that it keeps current itself.
        """
        answer, meta = await self.read(
            "health_service",
            f"/v1/health/service/{_segment(name, 'service')}",
            health_params(passing=passing, filter_=filter, near=near, datacenter=datacenter, cached=cached),
            index=index,
            wait=wait,
            consistency=consistency,
        )
        return _with(meta, _decode(answer, _SERVICE_ENTRIES, "health_service") or ())

    async def catalog_services(
        self, *, index: int | None = None, wait: float | None = None, consistency: Consistency = Consistency.DEFAULT
    ) -> Indexed[dict[str, tuple[str, ...]]]:
        """All service names with the union of their tags."""
        answer, meta = await self.read("catalog_services", "/v1/catalog/services", {}, index=index, wait=wait, consistency=consistency)
        return _with(meta, _decode(answer, _SERVICE_NAMES, "catalog_services"))

    async def catalog_node_services(self, node: str, *, consistency: Consistency = Consistency.DEFAULT) -> Indexed[tuple[ServiceRecord, ...]]:
        """Everything that is registered on a node; empty where the node does not exist."""
        path = f"/v1/catalog/node-services/{_segment(node, 'node')}"
        answer, meta = await self.read("catalog_node_services", path, {}, index=None, wait=None, consistency=consistency)
        found = None if answer.status == 404 else _decode(answer, _NODE_SERVICES, "catalog_node_services")
        return _with(meta, found.services or () if found else ())

    async def health_node(self, node: str, *, consistency: Consistency = Consistency.DEFAULT) -> Indexed[tuple[CheckEntry, ...]]:
        """All checks on a node, those of its services included."""
        path = f"/v1/health/node/{_segment(node, 'node')}"
        answer, meta = await self.read("health_node", path, {}, index=None, wait=None, consistency=consistency)
        return _with(meta, _decode(answer, _CHECKS, "health_node") or ())

    async def leader(self) -> str | None:
        """Address of the leader of the servers, None while there is none."""
        answer = await self._transport.send("leader", "GET", "/v1/status/leader", self._common)
        return _decode(require(answer, "the leader"), _STRING, "leader") or None

    # Writes

    async def kv_put(self, key: str, value: bytes, *, cas: int | None = None, flags: int = 0) -> bool:
        """Write a key. With `cas`: only while its `modify_index` is that (0: while it does not exist), else False."""
        return await self._write_kv(key, value, {} if cas is None else {"cas": str(cas)}, flags)

    async def kv_delete(self, key: str, *, cas: int | None = None, recurse: bool = False) -> bool:
        """Remove a key, or with `recurse` all that begin with it. With `cas`: only while its `modify_index` is that, else False."""
        params: Params = ({} if cas is None else {"cas": str(cas)}) | ({"recurse": None} if recurse else {})
        answer = await self._transport.send("kv_delete", "DELETE", _kv_path(key), self._common | params)
        return _decode(require(answer, key), _BOOL, "kv_delete")

    async def kv_acquire(self, key: str, value: bytes, session: str) -> bool:
        """Take the key's lock for a session; False while another one holds it. A lock is advice: guard what it protects by CAS as well.

        Raises SessionUnknown where the session has ended.
        """
        return await self._write_kv(key, value, {"acquire": session}, 0)

    async def kv_release(self, key: str, value: bytes, session: str) -> bool:
        """Give the lock back; False where the session does not hold it."""
        return await self._write_kv(key, value, {"release": session}, 0)

    async def _write_kv(self, key: str, value: bytes, params: Params, flags: int) -> bool:
        if len(value) > MAX_VALUE:
            raise PayloadTooLarge(f"the value of {key} has {len(value)} bytes, Consul keeps at most {MAX_VALUE}: split it")
        flagged: Params = {"flags": str(flags)} if flags else {}
        answer = await self._transport.send("kv_put", "PUT", _kv_path(key), self._common | params | flagged, body=value)
        return _decode(require(answer, key), _BOOL, "kv_put")

    async def txn(self, operations: Sequence[TxnOperation]) -> tuple[TxnResult, ...]:
        """Do all operations or none. Results come in order, but checks and deletes have none.

        Raises TxnConflict, with the reason of each operation that did not hold, and PermissionDenied.
        """
        if len(operations) > MAX_OPERATIONS:
            raise InvalidRequest(f"a transaction of {len(operations)} operations: Consul takes at most {MAX_OPERATIONS}")
        body = msgspec.json.encode([operation.wire() for operation in operations])
        answer = await self._transport.send("txn", "PUT", "/v1/txn", self._common, body=body)
        decoded = _decode(answer, _TXN, "txn")
        if answer.status == 409 or decoded.errors:
            errors = tuple(OperationError(e.op_index, e.what) for e in decoded.errors or ())
            denied = next((e.reason for e in errors if "Permission denied" in e.reason), None)
            if denied is not None:
                raise PermissionDenied(f"Consul refuses the transaction: {denied}")
            raise TxnConflict(errors)
        return decoded.results or ()

    async def session_create(
        self, *, name: str = "", ttl: float = 15.0, lock_delay: float = 15.0, behavior: Literal["release", "delete"] = "release"
    ) -> str:
        """Open a session of `ttl` seconds (10 to 86400) and return its id. `lock_delay`: how long a lock stays closed after its holder was lost."""
        body = {"Name": name, "TTL": f"{ttl:g}s", "LockDelay": f"{lock_delay:g}s", "Behavior": behavior}
        answer = await self._transport.send("session_create", "PUT", "/v1/session/create", self._common, body=msgspec.json.encode(body))
        return _decode(require(answer, "the session"), _SESSION_ID, "session_create").id

    async def session_renew(self, session: str) -> None:
        """Start the session's time anew.

        Raises SessionUnknown where it has ended.
        """
        answer = await self._transport.send("session_renew", "PUT", f"/v1/session/renew/{_segment(session, 'session')}", self._common)
        if answer.status == 404 or not _decode(answer, _SESSIONS, "session_renew"):
            raise SessionUnknown(f"session {session} has ended: create a new one")

    async def session_destroy(self, session: str) -> None:
        """End the session and release its locks; fine where it has ended."""
        require(await self._transport.send("session_destroy", "PUT", f"/v1/session/destroy/{_segment(session, 'session')}", self._common), "session")


class _NodeServices(msgspec.Struct, frozen=True, rename="pascal"):
    services: tuple[ServiceRecord, ...] | None = None
    node: NodeEntry | None = None


_KV = msgspec.json.Decoder(tuple[KvWire, ...])
_SERVICE_ENTRIES: msgspec.json.Decoder[tuple[ServiceEntry, ...] | None] = msgspec.json.Decoder(tuple[ServiceEntry, ...] | None)
_SERVICE_NAMES = msgspec.json.Decoder(dict[str, tuple[str, ...]])
_NODE_SERVICES: msgspec.json.Decoder[_NodeServices | None] = msgspec.json.Decoder(_NodeServices | None)
_CHECKS: msgspec.json.Decoder[tuple[CheckEntry, ...] | None] = msgspec.json.Decoder(tuple[CheckEntry, ...] | None)
_STRING = msgspec.json.Decoder(str)
_BOOL = msgspec.json.Decoder(bool)
_TXN = msgspec.json.Decoder(TxnAnswer)
_SESSION_ID = msgspec.json.Decoder(Session)
_SESSIONS: msgspec.json.Decoder[tuple[Session, ...] | None] = msgspec.json.Decoder(tuple[Session, ...] | None)


def _decode(answer: Answer, decoder: msgspec.json.Decoder[T], op: str) -> T:
    """The typed body. Raises BadAnswer where it is not JSON of that shape."""
    try:
        return decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        kind = answer.headers.get("Content-Type", "no content type")
        raise BadAnswer(f"Consul's answer to {op} cannot be read ({kind}; {error}): does a proxy answer instead?") from None


def decode_kv(answer: Answer) -> tuple[KvEntry, ...]:
    """The entries of a KV answer; its 404 means that there is no such key, if it is Consul's own."""
    if answer.status == 404:
        if "X-Consul-Index" not in answer.headers:
            raise BadAnswer("a 404 that is not Consul's: does consul.address lead to Consul itself, without a path?")
        return ()
    return tuple(wire.entry() for wire in _decode(answer, _KV, "kv"))


def health_params(
    *, passing: bool = False, filter_: str | None = None, near: str | None = None, datacenter: str | None = None, cached: bool = False
) -> Params:
    """The query of a health read."""
    params: Params = {}
    if passing:
        params["passing"] = None
    if filter_:
        params["filter"] = filter_
    if near:
        params["near"] = near
    if datacenter:
        params["dc"] = datacenter
    if cached:
        params["cached"] = None
    return params


def _meta(headers: Mapping[str, str]) -> Indexed[None]:
    raw = headers.get("X-Consul-Index", "")
    index = int(raw) if raw.isascii() and raw.isdigit() and len(raw) <= 20 else 0
    if index >= MAX_INDEX:
        index = 0
    contact = headers.get("X-Consul-LastContact", "0")
    return Indexed(
        value=None,
        index=max(1, index),
        known_leader=headers.get("X-Consul-KnownLeader", "true").lower() != "false",
        last_contact_ms=int(contact) if contact.isascii() and contact.isdigit() and len(contact) <= 20 else 0,
        filtered=headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true",
        index_valid=index >= 1,
    )


def _with(meta: Indexed[None], value: T) -> Indexed[T]:
    return Indexed(value, meta.index, meta.known_leader, meta.last_contact_ms, meta.filtered, meta.index_valid)


def _kv_path(key: str, *, empty: bool = False) -> str:
    if not empty and not key:
        raise InvalidRequest("the key is empty: name one")
    parts = key.removesuffix("/").split("/")
    if len(key) > MAX_KEY or (key and any(part in {"", ".", ".."} for part in parts)):
        raise InvalidRequest(f"key {key!r:.80} is no key: at most {MAX_KEY} characters in parts joined by /, none of them empty, `.` or `..`")
    return "/v1/kv/" + quote(key, safe="/")


def _segment(name: str, what: str) -> str:
    if not name or name in {".", ".."}:
        raise InvalidRequest(f"{what} {name!r} is no name")
    return quote(name, safe="")


with_value = _with
service_path = _segment
