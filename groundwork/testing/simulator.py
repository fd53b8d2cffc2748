"""A simulator of Consul, NOT Consul: one process, no agents, no Raft, no gossip, no expression filters, no check is ever executed.

It speaks the part of the HTTP API that the runtime uses, with real blocking queries and Consul's index rules, and it fails on demand.
What it promises is what `groundwork.testing.contract` asserts, which a real Consul passes too.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

import msgspec
from aiohttp import web

from groundwork.settings import ConsulSettings
from groundwork.testing.faults import Break, Fault
from groundwork.testing.state import Store
from groundwork.testing.wire import Check, Json, Operation, Service, check_json, key_json, pairs, service_json

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
class _Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])


class ConsulSimulator:
    """A server on loopback. Use it as an async context manager; `settings` is what a client needs.

    `tokens` empty: everything is allowed. `connections`: how many one client may have at once, as Consul's `http_max_conns_per_client`.
    The store is open to tests: write through `put`, `register`, `store` and call `changed` after writing to the store directly.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, ca: Path | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.store = Store()
        self.tokens: dict[str, Access] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.connections = 10_000
        self.host, self.port = host, port
        self.leader: str = "127.0.0.1:8300"
        self.last_contact_ms = 0
        self._tls, self._ca = tls, ca
        self._runner: web.AppRunner | None = None
        self._listener: socket.socket | None = None
        self._open: Counter[asyncio.BaseTransport] = Counter()
        self._waiting = 0
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # What tests use

    @property
    def settings(self) -> ConsulSettings:
        """How to reach it."""
        return ConsulSettings(address=f"{'https' if self._tls else 'http'}://{self.host}:{self.port}", ca=self._ca)

    @property
    def waiting(self) -> int:
        """How many blocking queries wait now."""
        return self._waiting

    @property
    def open_connections(self) -> int:
        """How many connections are in use by a request now."""
        return len(self._open)

    async def start(self) -> None:
        """Listen, at the same port as before."""
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
        await self._runner.setup()
        self._listener = socket.create_server((self.host, self.port), backlog=4096)
        self.port = int(self._listener.getsockname()[1])
        await web.SockSite(self._runner, self._listener, ssl_context=self._tls, backlog=4096).start()

    async def stop(self) -> None:
        """Stop to listen and break all connections."""
        runner, self._runner = self._runner, None
        if runner is None or self._listener is None:
            return
        # asyncio leaks a connection whose listener is closed between its accept and its first turn: accept no more, wait, then close.
        asyncio.get_running_loop().remove_reader(self._listener)
        for _ in range(10):
            await asyncio.sleep(0)
        for site in list(runner.sites):
            await site.stop()
        for handler in runner.server.connections if runner.server is not None else ():
            if isinstance(handler.transport, asyncio.Transport):
                handler.transport.abort()
        await runner.cleanup()

    async def restart(self, *, wipe: bool = False) -> None:
        """Stop and start; `wipe` also loses all state, so that the index begins anew, as with `consul agent -dev`."""
        await self.stop()
        if wipe:
            self.store = Store()
        await self.start()

    @contextmanager
    def fault(self, fault: Fault) -> Generator[Fault]:
        """The fault holds within the block."""
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)

    def changed(self) -> None:
        """Wake the blocking queries. The methods below do it themselves."""
        self._changed.set()
        self._changed = asyncio.Event()

    def put(self, key: str, value: bytes | str) -> None:
        """Write a key."""
        self.store.put(key, value.encode() if isinstance(value, str) else value)
        self.changed()

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.store.delete(key)
        self.changed()

    def register(
        self,
        service: str,
        instance: str,
        *,
        address: str = "127.0.0.1",
        port: int = 80,
        status: str = "passing",
        node: str = "node-1",
        tags: tuple[str, ...] = (),
        meta: Mapping[str, str] | None = None,
        weight: int = 1,
    ) -> None:
        """Register an instance with one check."""
        if node not in self.store.tables.nodes:
            self.store.set_node(node, "127.0.0.1")
        self.store.set_service(Service(node, instance, service, address, port, tags, pairs(meta), passing=weight))
        self.store.set_check(Check(node, f"service:{instance}", "ttl", status, service_id=instance))
        self.changed()

    def set_status(self, instance: str, status: str, *, node: str = "node-1") -> None:
        """Change the state of an instance's check."""
        self.store.set_check(Check(node, f"service:{instance}", "ttl", status, service_id=instance))
        self.changed()

    def deregister(self, instance: str, *, node: str = "node-1") -> None:
        """Remove an instance."""
        self.store.delete_service(node, instance)
        self.changed()

    async def received(self, count: int, *, path: str = "/", timeout: float = 10.0) -> None:  # noqa: ASYNC109 a helper for tests: it fails with TimeoutError
        """Wait until that many requests below `path` have arrived since the start."""
        async with asyncio.timeout(timeout):
            while sum(request.path.startswith(path) for request in self.requests) < count:  # noqa: ASYNC110 requests come from outside
                await asyncio.sleep(0.002)

    async def blocked(self, count: int = 1, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 a helper for tests: it fails with TimeoutError
        """Wait until that many blocking queries wait at the server."""
        async with asyncio.timeout(timeout):
            while self._waiting < count:  # noqa: ASYNC110 requests come from outside
                await asyncio.sleep(0.002)

    # What the network sees

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = "/" + request.raw_path.partition("?")[0].lstrip("/")
        token = request.headers.get("X-Consul-Token", "")
        seen = Request(request.method, path, dict(request.query), token, str(request.remote))
        self.requests.append(seen)
        async with self._counted(request) as admitted:
            if not admitted:
                return web.Response(status=429, text="Your IP is issuing too many concurrent connections, please rate limit your calls")
            fault = self._fault_for(seen)
            if fault is not None and fault.delay:
                await asyncio.sleep(fault.delay)
            if fault is not None and fault.status is not None:
                index = str(self._index_of(seen))
                reply = _Reply(
                    fault.status, fault.body or b"", {"X-Consul-Index": index, "X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"}
                )
            elif fault is not None and fault.breaks in {Break.SILENT, Break.DROP, Break.GARBAGE}:
                return await self._break_off(request, fault.breaks)
            else:
                reply = await self._answer(request, seen)
            return await self._send(request, reply, fault)

    @asynccontextmanager
    async def _counted(self, request: web.Request) -> AsyncGenerator[bool]:
        transport = request.transport
        if transport is None:
            yield False
            return
        self._open[transport] += 1
        try:
            yield len(self._open) <= self.connections
        finally:
            self._open[transport] -= 1
            if not self._open[transport]:
                del self._open[transport]

    def _fault_for(self, seen: Request) -> Fault | None:
        for fault in self.faults:
            if (
                seen.path.startswith(fault.path)
                and fault.method in {None, seen.method}
                and fault.blocking in {None, seen.blocking}
                and fault.consistent in {None, "consistent" in seen.query}
                and not fault.spent()
            ):
                fault.hits += 1
                return fault
        return None

    async def _break_off(self, request: web.Request, how: Break) -> web.StreamResponse:
        if how is Break.SILENT:
            await asyncio.Event().wait()
        transport = request.transport
        if isinstance(transport, asyncio.Transport):
            if how is Break.GARBAGE:
                transport.write(b"\x16\x03\x01\x00 not HTTP at all\r\n\r\n")
                await asyncio.sleep(0.01)
            transport.close()
        return web.Response()

    async def _send(self, request: web.Request, reply: _Reply, fault: Fault | None) -> web.StreamResponse:
        body = fault.body if fault is not None and fault.body is not None else reply.body
        headers: dict[str, str] = {"Content-Type": "application/json"} | reply.headers
        overrides: Mapping[str, str | None] = fault.headers if fault else {}
        for name, value in overrides.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        breaks = fault.breaks if fault else None
        if breaks is Break.GZIP:
            headers["Content-Encoding"] = "gzip"
            body = _bomb()
        if breaks not in {Break.TRUNCATE, Break.SLOW}:
            return web.Response(status=reply.status, body=body, headers=headers)
        response = web.StreamResponse(status=reply.status, headers=headers)
        response.content_length = max(2, len(body))
        await response.prepare(request)
        if breaks is Break.TRUNCATE:
            await response.write(body[: len(body) // 2])
            transport = request.transport
            if isinstance(transport, asyncio.Transport):
                transport.close()
            return response
        for byte in body[:-1]:
            await response.write(bytes((byte,)))
            await asyncio.sleep(0.05)
        await asyncio.Event().wait()
        return response

    # What Consul knows

    async def _answer(self, request: web.Request, seen: Request) -> _Reply:
        access = self._access(seen.token)
        if access is None:
            return _Reply(403, b"ACL not found")
        if seen.method == "GET":
            return await self._read(seen, access)
        body = await request.read()
        reply = self._write(seen, access, body)
        self.changed()
        return reply

    def _access(self, token: str) -> Access | None:
        return self.tokens.get(token) if self.tokens else Access()

    def _index_of(self, seen: Request) -> int:
        try:
            return self._look(seen, Access())[0]
        except KeyError:
            return self.store.index

    async def _read(self, seen: Request, access: Access) -> _Reply:
        if seen.path == "/v1/status/leader":
            return _Reply(200, json.dumps(self.leader).encode())
        if not self.leader and "stale" not in seen.query:
            return _Reply(500, b"No cluster leader")
        if seen.path.startswith("/v1/kv/") and "recurse" not in seen.query and not _allows(access.key_read, _key(seen)):
            return _Reply(403, b"Permission denied: token lacks permission 'key:read'")
        try:
            index, found, filtered = self._look(seen, access)
            if seen.blocking:
                await self._wait(seen, access, index)
                index, found, filtered = self._look(seen, access)
        except KeyError:
            return _Reply(404, b"404 page not found")
        headers = {
            "X-Consul-Index": str(max(1, index)),
            "X-Consul-KnownLeader": "true" if self.leader else "false",
            "X-Consul-LastContact": str(self.last_contact_ms),
            "X-Consul-Effective-Consistency": next((mode for mode in ("consistent", "stale") if mode in seen.query), "leader"),
        }
        if filtered:
            headers["X-Consul-Results-Filtered-By-ACLs"] = "true"
        if found is None:
            return _Reply(404, b"", headers)
        return _Reply(200, _ENCODER.encode(found), headers)

    async def _wait(self, seen: Request, access: Access, index: int) -> None:
        """Consul waits while its index is not above the client's, which is for ever (the wait) if the client's lies in the future."""
        try:
            after = int(seen.query["index"])
        except ValueError:
            return
        if after == 0:
            return
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_duration(seen.query.get("wait", "300s"))):
                    while index <= after:
                        await self._changed.wait()
                        index = self._look(seen, access)[0]
        finally:
            self._waiting -= 1

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
        index, row = self.store.kv(key)
        return index, [key_json(key, row)] if row else None, False

    def _node(self, name: str) -> dict[str, object]:
        node = self.store.tables.nodes[name]
        return {"ID": "", "Node": name, "Address": node.address, "Datacenter": "dc1", "TaggedAddresses": None, "Meta": dict(node.meta) or None}

    def entry(self, row: Service) -> dict[str, object]:
        """An instance with its node and checks, as the health API answers."""
        checks = [check_json(check) for check in self.store.checks(row)]
        return {"Node": self._node(row.node), "Service": service_json(row), "Checks": checks}

    def _write(self, seen: Request, access: Access, body: bytes) -> _Reply:
        if not self.leader:
            return _Reply(500, b"No cluster leader")
        if seen.path.startswith("/v1/kv/"):
            return self._write_kv(seen, access, body)
        handlers: dict[str, Callable[[bytes, Access], _Reply]] = {"/v1/txn": self._txn, "/v1/session/create": self._session}
        if seen.path in handlers:
            return handlers[seen.path](body, access)
        session = seen.path.rpartition("/")[2]
        if seen.path.startswith("/v1/session/renew/"):
            known = session in self.store.sessions
            return (
                _Reply(200, json.dumps([{"ID": session, "TTL": "15s"}]).encode())
                if known
                else _Reply(404, f"Session id '{session}' not found".encode())
            )
        if seen.path.startswith("/v1/session/destroy/"):
            self.store.end_session(session)
            return _Reply(200, b"true")
        return _Reply(404, b"404 page not found")

    def _write_kv(self, seen: Request, access: Access, body: bytes) -> _Reply:
        key, query = _key(seen), seen.query
        if not _allows(access.key_write, key):
            return _Reply(403, b"Permission denied: token lacks permission 'key:write'")
        if len(body) > MAX_VALUE:
            return _Reply(413, b"Request body too large")
        cas = int(query["cas"]) if "cas" in query else None
        if seen.method == "DELETE":
            if "recurse" in query:
                for name, _ in self.store.tree(key)[1]:
                    self.store.delete(name)
                return _Reply(200, b"true")
            return _bool(self.store.delete(key, cas=cas))
        session = query.get("acquire") or query.get("release")
        if session is not None:
            if session not in self.store.sessions:
                return _Reply(500, f'rpc error making call: invalid session "{session}"'.encode())
            return _bool((self.store.lock if "acquire" in query else self.store.unlock)(key, body, session))
        return _bool(self.store.put(key, body, cas=cas, flags=int(query.get("flags", "0"))))

    def _session(self, body: bytes, access: Access) -> _Reply:
        del access
        wanted = json.loads(body or b"{}")
        return _Reply(200, json.dumps({"ID": self.store.open_session(str(wanted.get("Name", "")))}).encode())

    def _txn(self, body: bytes, access: Access) -> _Reply:
        try:
            operations = _OPERATIONS.decode(body)
        except msgspec.DecodeError as error:
            return _Reply(400, f"Failed to parse body: {error}".encode())
        denied: list[Json] = []
        for number, operation in enumerate(operations):
            wanted = operation.kv
            reads_only = wanted is not None and wanted.verb.startswith(("get", "check"))
            if wanted is not None and not _allows(access.key_read if reads_only else access.key_write, wanted.key):
                denied.append({"OpIndex": number, "What": "Permission denied"})
            if operation.service is not None and not _allows(access.service_write, operation.service.service.service):
                denied.append({"OpIndex": number, "What": "Permission denied"})
        results, errors = ([], denied) if denied else self.store.transaction(operations)
        return _Reply(409 if errors else 200, _ENCODER.encode({"Results": results or None, "Errors": errors or None}))


@cache
def _bomb() -> bytes:
    """64 MiB of blanks, compressed to a thousandth."""
    return gzip.compress(b"[" + b" " * 64 * 1024 * 1024, compresslevel=1)


def _key(seen: Request) -> str:
    return unquote(seen.path.removeprefix("/v1/kv/"))


def _allows(prefixes: tuple[str, ...], name: str) -> bool:
    return any(name.startswith(prefix) for prefix in prefixes)


def _bool(value: bool) -> _Reply:  # noqa: FBT001 the value itself is the answer
    return _Reply(200, b"true" if value else b"false")


def _duration(text: str) -> float:
    for unit, seconds in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if text.endswith(unit) and text.removesuffix(unit).replace(".", "", 1).isdigit():
            return float(text.removesuffix(unit)) * seconds
    return 300.0
