"""What the simulated Consul answers: the HTTP API over the store, with blocking queries and access lists. No faults and no sockets here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

import msgspec

from groundwork.testing.state import Store
from groundwork.testing.wire import Json, Operation, Service, check_json, key_json, service_json

MAX_VALUE: Final = 512 * 1024
_OPERATIONS = msgspec.json.Decoder(list[Operation])
_ENCODER = msgspec.json.Encoder()  # bytes become base64, as in Consul's KV


@dataclass(frozen=True)
class Request:
    """A request as it was received."""

    method: str
    path: str
    query: Mapping[str, str]
    token: str
    peer: str

    @property
    def blocking(self) -> bool:
        """Whether it waits for a change."""
        return "index" in self.query


@dataclass
class Access:
    """What a token may do, by prefix. Lists of what it may not see are filtered, with the header that says so."""

    key_read: tuple[str, ...] = ("",)
    key_write: tuple[str, ...] = ("",)
    service_read: tuple[str, ...] = ("",)
    service_write: tuple[str, ...] = ("",)


@dataclass
class Reply:
    """Status, body and headers of an answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])


class Answers:
    """A store and who may do what with it."""

    def __init__(self) -> None:
        self.store = Store()
        self.tokens: dict[str, Access] = {}
        self.leader = "127.0.0.1:8300"
        self.last_contact_ms = 0
        self.waiting = 0
        self._turn = asyncio.Event()

    def changed(self) -> None:
        """Wake the blocking queries after a change of the store."""
        self._turn.set()
        self._turn = asyncio.Event()

    async def answer(self, seen: Request, body: bytes) -> Reply:
        """The answer to a request, when it is time."""
        access = self._access(seen.token)
        if access is None:
            return Reply(403, b"ACL not found")
        if seen.method == "GET":
            return await self._read(seen, access)
        reply = self._write(seen, access, body)
        self.changed()
        return reply

    def _access(self, token: str) -> Access | None:
        return self.tokens.get(token) if self.tokens else Access()

    def index_of(self, seen: Request) -> int:
        """The index that an answer to the request would carry now."""
        try:
            return self._look(seen, Access())[0]
        except KeyError:
            return self.store.index

    async def _read(self, seen: Request, access: Access) -> Reply:
        if seen.path == "/v1/status/leader":
            return Reply(200, json.dumps(self.leader).encode())
        if not self.leader and "stale" not in seen.query:
            return Reply(500, b"No cluster leader")
        if seen.path.startswith("/v1/kv/") and "recurse" not in seen.query and not _allows(access.key_read, _key(seen)):
            return Reply(403, b"Permission denied: token lacks permission 'key:read'")
        try:
            index, found, filtered = self._look(seen, access)
            if seen.blocking:
                await self._wait(seen, access, index)
                index, found, filtered = self._look(seen, access)
        except KeyError:
            return Reply(404, b"404 page not found")
        headers = {
            "X-Consul-Index": str(max(1, index)),
            "X-Consul-KnownLeader": "true" if self.leader else "false",
            "X-Consul-LastContact": str(self.last_contact_ms),
            "X-Consul-Effective-Consistency": next((mode for mode in ("consistent", "stale") if mode in seen.query), "leader"),
        }
        if filtered:
            headers["X-Consul-Results-Filtered-By-ACLs"] = "true"
        if found is None:
            return Reply(404, b"", headers)
        return Reply(200, _ENCODER.encode(found), headers)

    async def _wait(self, seen: Request, access: Access, index: int) -> None:
        """Consul waits while its index is not above the client's, which is for ever (the wait) if the client's lies in the future."""
        try:
            after = int(seen.query["index"])
        except ValueError:
            return
        if after == 0:
            return
        self.waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_duration(seen.query.get("wait", "300s"))):
                    while index <= after:
                        await self._turn.wait()
                        index = self._look(seen, access)[0]
        finally:
            self.waiting -= 1

    def _look(self, seen: Request, access: Access) -> tuple[int, object | None, bool]:
        """Index, answer (None: 404) and whether something was filtered. Raises KeyError for an unknown path."""
        store, path = self.store, seen.path
        if path.startswith("/v1/kv/"):
            return self._look_kv(seen, access)
        if path.startswith("/v1/health/service/"):
            service = unquote(path.removeprefix("/v1/health/service/"))
            index, rows = store.instances(service)
            entries = [self.entry(row) for row in rows]
            if "passing" in seen.query:
                entries = [entry for row, entry in zip(rows, entries, strict=True) if all(check.status == "passing" for check in store.checks(row))]
            allowed = _allows(access.service_read, service)
            return index, entries if allowed else [], not allowed and bool(entries)
        if path == "/v1/catalog/services":
            names: dict[str, set[str]] = {"consul": set()}
            for row in store.tables.services.values():
                names.setdefault(row.service, set()).update(row.tags)
            seen_names = {name: sorted(tags) for name, tags in names.items() if _allows(access.service_read, name)}
            return store.tables.catalog_index, seen_names, len(seen_names) < len(names)
        if path.startswith("/v1/catalog/node-services/"):
            node = unquote(path.removeprefix("/v1/catalog/node-services/"))
            if node not in store.tables.nodes:
                return store.tables.catalog_index, {"Node": None, "Services": []}, False
            rows = [service_json(row) for (name, _), row in sorted(store.tables.services.items()) if name == node]
            return store.tables.catalog_index, {"Node": self._node(node), "Services": rows}, False
        if path.startswith("/v1/health/node/"):
            node = unquote(path.removeprefix("/v1/health/node/"))
            return store.tables.catalog_index, [check_json(c) for c in store.tables.checks.values() if c.node == node], False
        raise KeyError(path)

    def _look_kv(self, seen: Request, access: Access) -> tuple[int, object | None, bool]:
        key = _key(seen)
        if "recurse" in seen.query:
            index, rows = self.store.tree(key)
            allowed = [(name, row) for name, row in rows if _allows(access.key_read, name)]
            return index, [key_json(name, row) for name, row in allowed] or None, len(allowed) < len(rows)
        if "keys" in seen.query:
            index, rows = self.store.tree(key)
            return index, [name for name, _ in rows if _allows(access.key_read, name)] or None, False
        index, row = self.store.kv(key)
        return index, [key_json(key, row)] if row else None, False

    def _node(self, name: str) -> dict[str, object]:
        node = self.store.tables.nodes[name]
        return {"ID": "", "Node": name, "Address": node.address, "Datacenter": "dc1", "TaggedAddresses": None, "Meta": dict(node.meta) or None}

    def entry(self, row: Service) -> dict[str, object]:
        """An instance with its node and checks, as the health API answers."""
        checks = [check_json(check) for check in self.store.checks(row)]
        return {"Node": self._node(row.node), "Service": service_json(row), "Checks": checks}

    def _write(self, seen: Request, access: Access, body: bytes) -> Reply:
        if not self.leader:
            return Reply(500, b"No cluster leader")
        if seen.path.startswith("/v1/kv/"):
            return self._write_kv(seen, access, body)
        handlers: dict[str, Callable[[bytes, Access], Reply]] = {"/v1/txn": self._txn, "/v1/session/create": self._session}
        if seen.path in handlers:
            return handlers[seen.path](body, access)
        session = seen.path.rpartition("/")[2]
        if seen.path.startswith("/v1/session/renew/"):
            known = session in self.store.sessions
            return (
                Reply(200, json.dumps([{"ID": session, "TTL": "15s"}]).encode())
                if known
                else Reply(404, f"Session id '{session}' not found".encode())
            )
        if seen.path.startswith("/v1/session/destroy/"):
            self.store.end_session(session)
            return Reply(200, b"true")
        return Reply(404, b"404 page not found")

    def _write_kv(self, seen: Request, access: Access, body: bytes) -> Reply:
        key, query = _key(seen), seen.query
        if not _allows(access.key_write, key):
            return Reply(403, b"Permission denied: token lacks permission 'key:write'")
        if len(body) > MAX_VALUE:
            return Reply(413, b"Request body too large")
        cas = int(query["cas"]) if "cas" in query else None
        if seen.method == "DELETE":
            if "recurse" in query:
                for name, _ in self.store.tree(key)[1]:
                    self.store.delete(name)
                return Reply(200, b"true")
            return _bool(self.store.delete(key, cas=cas))
        session = query.get("acquire") or query.get("release")
        if session is not None:
            if session not in self.store.sessions:
                return Reply(500, f'rpc error making call: invalid session "{session}"'.encode())
            return _bool((self.store.lock if "acquire" in query else self.store.unlock)(key, body, session))
        return _bool(self.store.put(key, body, cas=cas, flags=int(query.get("flags", "0"))))

    def _session(self, body: bytes, access: Access) -> Reply:
        del access
        wanted = json.loads(body or b"{}")
        return Reply(200, json.dumps({"ID": self.store.open_session(str(wanted.get("Name", "")))}).encode())

    def _txn(self, body: bytes, access: Access) -> Reply:
        try:
            operations = _OPERATIONS.decode(body)
        except msgspec.DecodeError as error:
            return Reply(400, f"Failed to parse body: {error}".encode())
        denied: list[Json] = []
        for number, operation in enumerate(operations):
            wanted = operation.kv
            reads_only = wanted is not None and wanted.verb.startswith(("get", "check"))
            if wanted is not None and not _allows(access.key_read if reads_only else access.key_write, wanted.key):
                denied.append({"OpIndex": number, "What": "Permission denied"})
            if operation.service is not None and not _allows(access.service_write, operation.service.service.service):
                denied.append({"OpIndex": number, "What": "Permission denied"})
        results, errors = ([], denied) if denied else self.store.transaction(operations)
        return Reply(409 if errors else 200, _ENCODER.encode({"Results": results or None, "Errors": errors or None}))


def _key(seen: Request) -> str:
    return unquote(seen.path.removeprefix("/v1/kv/"))


def _allows(prefixes: tuple[str, ...], name: str) -> bool:
    return any(name.startswith(prefix) for prefix in prefixes)


def _bool(value: bool) -> Reply:  # noqa: FBT001 the value itself is the answer
    return Reply(200, b"true" if value else b"false")


def _duration(text: str) -> float:
    for unit, seconds in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if text.endswith(unit) and text.removesuffix(unit).replace(".", "", 1).isdigit():
            return float(text.removesuffix(unit)) * seconds
    return 300.0
