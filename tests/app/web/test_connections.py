"""Connections that ask for nothing, ask slowly, do not read, or are too many, against a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from groundwork.metrics import Metrics
from groundwork.web.connections import ConnectionLimits, bounded

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
GENEROUS = 30.0  # seconds: nothing here takes one


@dataclass
class World:
    port: int
    metrics: Metrics
    server: uvicorn.Server
    sent: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])

    def cut(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("connections_cut_total", {"reason": reason}) or 0.0

    async def connect(self, *, buffer: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.create_connection(("127.0.0.1", self.port)) if buffer is None else _narrow(self.port, buffer)
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        self.writers.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        """Close what the test has opened."""
        for writer in self.writers:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self) -> bytes:
        """One request on a connection of its own."""
        reader, writer = await self.connect()
        writer.write(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        async with asyncio.timeout(GENEROUS):
            return await reader.read()


def _narrow(port: int, buffer: int) -> socket.socket:
    """A connection whose receiver takes little at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.connect(("127.0.0.1", port))
    return sock


@asynccontextmanager
async def served(*, most: int = 100, head: float = GENEROUS, stall: float = GENEROUS) -> AsyncGenerator[World]:
    metrics = Metrics()
    world: World | None = None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert world is not None
        await receive()
        start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        if scope["path"] == "/endless":
            await send(start | {"headers": []})
            gone = asyncio.ensure_future(receive())
            while not gone.done():
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                world.sent += 1
                await asyncio.sleep(0)
            return
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        await send(start)
        await send({"type": "http.response.body", "body": b"ok"})

    listener = socket.create_server(("127.0.0.1", 0))
    protocol = bounded(ConnectionLimits(most, head, stall), metrics)
    config = uvicorn.Config(app, http=protocol, log_config=None, lifespan="off", timeout_graceful_shutdown=60)
    server = uvicorn.Server(config)
    world = World(int(listener.getsockname()[1]), metrics, server)
    server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue] - signals are the test runner's
    serving = asyncio.create_task(server._serve([listener]))  # pyright: ignore[reportPrivateUsage] - `serve` would take the signals
    try:
        yield world
    finally:
        server.should_exit = True
        async with asyncio.timeout(GENEROUS):
            await serving
        await world.hang_up()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what is waited for happens in the server
        await asyncio.sleep(0.01)


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What came until the server closed or cut the connection."""
    got = b""
    try:
        async with asyncio.timeout(GENEROUS):
            while chunk := await reader.read(65536):
                got += chunk
    except ConnectionError:
        pass
    return got


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: te"])
async def test_r57_a_head_that_does_not_come_ends_the_connection(begun: bytes) -> None:
    async with served(head=0.2) as world:
        reader, writer = await world.connect()
        writer.write(begun)
        assert await ends(reader) == b""
        assert world.cut("head") == 1


async def test_r57_a_second_head_that_does_not_come_does_so_too() -> None:
    async with served(head=0.2) as world:
        reader, writer = await world.connect()
        writer.write(REQUEST + b"GET /second HTT")
        assert (await ends(reader)).count(b"200 OK") == 1
        assert world.cut("head") == 1


async def test_r57_dripping_bytes_win_no_time() -> None:
    async with served(head=0.3) as world:
        reader, writer = await world.connect()

        async def drip() -> None:
            for byte in REQUEST * 100:
                writer.write(bytes([byte]) if byte not in b"\r\n" else b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await ends(reader) == b""
        assert world.cut("head") == 1
        dripping.cancel()
        await asyncio.wait({dripping})


async def test_r57_who_waits_for_its_answer_or_between_two_requests_is_not_cut() -> None:
    async with served(head=0.1) as world:
        reader, writer = await world.connect()
        for path in (b"/slow", b"/", b"/"):
            writer.write(REQUEST.replace(b"/ ", path + b" ", 1))
            async with asyncio.timeout(GENEROUS):
                assert b"200 OK" in await reader.readuntil(b"ok")
            await asyncio.sleep(0.3)
        assert world.cut("head") == 0


async def test_r57_a_reader_that_takes_nothing_is_cut_and_its_request_ends() -> None:
    async with served(stall=0.3) as world:
        _, writer = await world.connect(buffer=4096)
        writer.write(REQUEST.replace(b"/", b"/endless", 1))
        async with asyncio.timeout(GENEROUS):
            await until(lambda: world.cut("stalled") == 1)
            await until(lambda: not world.server.server_state.connections)


async def test_r57_a_slow_reader_is_not_cut() -> None:
    async with served(stall=0.3) as world:
        reader, writer = await world.connect(buffer=4096)
        writer.write(REQUEST.replace(b"/", b"/endless", 1))
        async with asyncio.timeout(GENEROUS):
            for _ in range(60):
                await reader.read(65536)
                await asyncio.sleep(0.02)
        assert world.cut("stalled") == 0


async def test_r57_what_nobody_reads_does_not_keep_the_server_from_stopping() -> None:
    async with served(stall=0.3) as world:
        _, writer = await world.connect(buffer=4096)
        writer.write(REQUEST.replace(b"/", b"/endless", 1))
        async with asyncio.timeout(GENEROUS):
            await until(lambda: world.sent > 0)
    assert world.cut("stalled") == 1  # and `served` has waited for its end, for less than uvicorn's own 60 s


async def test_r57_idle_connections_make_room_for_new_ones() -> None:
    async with served(most=3) as world:
        kept = [await world.connect() for _ in range(3)]
        for reader, writer in kept:
            writer.write(REQUEST)
            async with asyncio.timeout(GENEROUS):
                await reader.readuntil(b"ok")
        assert b"200 OK" in await world.ask()
        assert world.cut("full") == 0


async def test_r57_where_all_are_busy_a_new_connection_is_cut_and_the_others_are_answered() -> None:
    async with served(most=2) as world:
        busy = [await world.connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(REQUEST.replace(b"/", b"/slow", 1))
        await asyncio.sleep(0.1)
        reader, late = await world.connect()
        late.write(REQUEST)
        assert await ends(reader) == b""
        assert world.cut("full") == 1
        for reader, _ in busy:
            async with asyncio.timeout(GENEROUS):
                assert b"200 OK" in await reader.readuntil(b"ok")
