"""Checks of the platform's engines. Each owns its connection: a busy pool of the service is not a sick database, and a cancelled call
on a shared connection could hand its answer to somebody else (redis-py#2665).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from aio_pika.abc import AbstractChannel, AbstractConnection
from redis.asyncio import Redis

from groundwork import engines
from groundwork.engines import Connection
from groundwork.health.model import CheckFailed
from groundwork.settings import PostgresSettings, RabbitmqSettings, RedisSettings


class Fetches(Protocol):
    """Something that runs a query: a connection or a pool of asyncpg."""

    async def fetchval(self, query: str, *args: object) -> object:
        """The first column of the first row."""
        ...


class PostgresCheck:
    """`SELECT 1` in effect, and the server must accept writes: a standby after a failover is not the database that the service needs."""

    name = "postgres"
    component_type = "datastore"

    def __init__(self, database: PostgresSettings | Fetches, *, writable: bool = True) -> None:
        self._settings = database if isinstance(database, PostgresSettings) else None
        self._shared = None if isinstance(database, PostgresSettings) else database
        self._own: Connection | None = None
        self._writable = writable

    async def run(self) -> None:
        """Ask the database whether it answers and accepts writes."""
        read_only = await self._fetch("SELECT pg_is_in_recovery()")
        if read_only and self._writable:
            raise CheckFailed("read-only")

    async def close(self) -> None:
        """Close the check's own connection."""
        connection, self._own = self._own, None
        if connection is not None:
            connection.terminate()

    async def _fetch(self, query: str) -> object:
        if self._shared is not None:
            return await self._shared.fetchval(query)
        if self._settings is None:
            raise CheckFailed("not configured")
        connection, self._own = self._own, None  # put back only after a whole answer
        if connection is None:
            connection = await engines.postgres_connection(self._settings)
        try:
            answer = await connection.fetchval(query)
        except BaseException:
            connection.terminate()
            raise
        self._own = connection
        return answer


class RedisCheck:
    """PING must answer PONG: a server that still loads its data, or refuses the password, does not."""

    name = "redis"
    component_type = "datastore"

    def __init__(self, settings: RedisSettings, *, timeout: float = 1.0) -> None:
        self._settings = settings
        self._timeout = timeout
        self._client: Redis | None = None

    async def run(self) -> None:
        """Ask over a connection of its own; a new one after any failure."""
        client, self._client = self._client, None
        if client is None:
            client = engines.redis_client(self._settings, timeout=self._timeout, single_connection=True)
        try:
            await client.ping()  # pyright: ignore[reportUnknownMemberType] - its **kwargs have no type
        except BaseException:
            await asyncio.shield(client.aclose())
            raise
        self._client = client

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class RabbitmqCheck:
    """A passive declaration of an exchange that every virtual host has: goes through authentication, virtual host and channel, changes nothing."""

    name = "rabbitmq"
    component_type = "component"

    def __init__(self, settings: RabbitmqSettings) -> None:
        self._settings = settings
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def run(self) -> None:
        """Ask over a connection of its own; a new one after any failure."""
        connection, channel = self._connection, self._channel
        self._connection = self._channel = None
        try:
            if connection is None or channel is None or connection.is_closed or channel.is_closed:
                if connection is not None:
                    await connection.close()
                connection = await engines.amqp_connection(self._settings)
                channel = await connection.channel()
            await channel.declare_exchange("amq.direct", passive=True)
        except BaseException:
            if connection is not None:
                await asyncio.shield(_close(connection))
            raise
        self._connection, self._channel = connection, channel

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close(connection)


class HasLeader(Protocol):
    """Something that knows Consul's leader: the Consul client."""

    async def leader(self) -> str | None:
        """The leader's address; None where there is none."""
        ...


class ConsulCheck:
    """The servers must have a leader, else nothing can be written and reads may be old."""

    name = "consul"
    component_type = "component"

    def __init__(self, client: HasLeader) -> None:
        self._client = client

    async def run(self) -> None:
        """Ask who leads."""
        if not await self._client.leader():
            raise CheckFailed("no leader")

    async def close(self) -> None:
        """The client belongs to its maker."""


async def _close(connection: AbstractConnection) -> None:
    async with asyncio.timeout(1.0):
        await connection.close()
