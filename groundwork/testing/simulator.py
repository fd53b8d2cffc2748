"""A simulator of Consul, NOT Consul: one process, no agents, no Raft, no gossip, no expression filters, no check is ever executed.

It speaks the part of the HTTP API that the runtime uses, with real blocking queries and Consul's index rules, and it fails on demand.
What it promises is what `groundwork.testing.contract` asserts, which a real Consul passes too.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Self

from aiohttp import web

from groundwork.settings import ConsulSettings
from groundwork.testing.answers import Access, Answers, Reply, Request
from groundwork.testing.faults import Break, Fault
from groundwork.testing.state import Store
from groundwork.testing.wire import Check, Service, pairs

__all__ = ["Access", "ConsulSimulator", "Request"]


class ConsulSimulator(Answers):
    """A server on loopback. Use it as an async context manager; `settings` is what a client needs.

    `tokens` empty: everything is allowed. `connections`: how many one client may have at once, as Consul's `http_max_conns_per_client`.
    The store is open to tests: write through `put`, `register`, `store` and call `changed` after writing to the store directly.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, ca: Path | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.connections = 10_000
        self.host, self.port = host, port
        self._tls, self._ca = tls, ca
        self._runner: web.AppRunner | None = None
        self._listener: socket.socket | None = None
        self._open: Counter[asyncio.BaseTransport] = Counter()

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
            if handler.transport is not None:
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
            while self.waiting < count:  # noqa: ASYNC110 requests come from outside
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
                index = str(self.index_of(seen))
                reply = Reply(fault.status, fault.body or b"", {"X-Consul-Index": index, "X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"})
            elif fault is not None and fault.breaks in {Break.SILENT, Break.DROP, Break.GARBAGE}:
                return await self._break_off(request, fault.breaks)
            else:
                reply = await self.answer(seen, await request.read())
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
        if transport is not None:
            if how is Break.GARBAGE:
                transport.write(b"\x16\x03\x01\x00 not HTTP at all\r\n\r\n")
                await asyncio.sleep(0.01)
            transport.close()
        return web.Response()

    async def _send(self, request: web.Request, reply: Reply, fault: Fault | None) -> web.StreamResponse:
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
            if transport is not None:
                transport.close()
            return response
        for byte in body[:-1]:
            await response.write(bytes((byte,)))
            await asyncio.sleep(0.05)
        await asyncio.Event().wait()
        return response


@cache
def _bomb() -> bytes:
    """64 MiB of blanks, compressed to a thousandth."""
    return gzip.compress(b"[" + b" " * 64 * 1024 * 1024, compresslevel=1)
