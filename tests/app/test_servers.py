"""The servers that other tests stand on: they start, survive what a test does to them, and leave nothing behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import asyncpg
import pytest
from asyncpg import Connection
from redis.asyncio import Redis

from tests.app import servers
from tests.app.processes import Server, listening

ALL: list[Callable[[], AbstractContextManager[Server]]] = [servers.postgres, servers.redis, servers.rabbitmq, servers.consul]


@pytest.mark.parametrize("engine", ALL, ids=["postgres", "redis", "rabbitmq", "consul"])
def test_a_server_starts_stops_starts_again_and_leaves_nothing(engine: Callable[[], AbstractContextManager[Server]]) -> None:
    with engine() as server:
        assert listening(server.host, server.port)
        server.stop()
        assert not listening(server.host, server.port)
        server.start()
        server.kill()
        assert not listening(server.host, server.port)
        server.wipe()
        server.start()
        pid, folder = server.pid, server.folder
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()


async def test_a_paused_postgres_answers_nobody_and_goes_on_after() -> None:
    with servers.postgres() as server:
        trust = ssl.create_default_context(cafile=str(server.ca))

        async def connect() -> Connection:
            return await asyncpg.connect(host=server.host, port=server.port, user=server.username, password=server.password, ssl=trust)

        connection = await connect()
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.execute("SELECT 1"), 0.5)
        server.resume()
        again = await connect()
        assert await again.fetchval("SELECT 1") == 1
        await again.close()
        connection.terminate()


async def test_redis_keeps_its_data_over_a_restart_and_loses_it_by_a_wipe() -> None:
    with servers.redis() as server:

        def client() -> Redis:
            return Redis(
                host=server.host, port=server.port, username=server.username, password=server.password, ssl=True, ssl_ca_certs=str(server.ca)
            )

        async with client() as redis:
            await redis.set("a", "1")
        server.restart()
        async with client() as redis:
            assert await redis.get("a") == b"1"
        server.kill()
        server.wipe()
        server.start()
        async with client() as redis:
            assert await redis.get("a") is None
