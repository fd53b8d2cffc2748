"""Connections to the engines, by the service's settings: TLS verified against the stack's CA, credentials read when a connection is made.

Every connection that is opened after a rotation uses the new credentials, because they are read from their files each time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

import aio_pika
import asyncpg
import redis.exceptions
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis
from redis.credentials import CredentialProvider

from groundwork.settings import PostgresSettings, RabbitmqSettings, RedisSettings

CONNECT_TIMEOUT = 5.0  # seconds
HEARTBEAT = 10  # seconds between RabbitMQ's signs of life: a dead server is noticed after two

UNAVAILABLE: Final[tuple[type[Exception], ...]] = (
    OSError,  # refused, reset, timed out
    asyncpg.InterfaceError,  # asyncpg's own word for a connection that is gone
    asyncpg.InternalClientError,  # and what it says when the server dies within a transaction that is being cancelled
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # the server stops or starts
    asyncpg.InsufficientResourcesError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    aio_pika.exceptions.AMQPError,
)
"""What the drivers raise while their server is away. An answer with such an error is a 503: try again."""


def tls_context(ca: Path | None) -> ssl.SSLContext | None:
    """Verifies the server's name and its certificate against `ca`; None for a server without TLS."""
    return None if ca is None else ssl.create_default_context(cafile=str(ca))


Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
"""Connections to one database. Give `acquire` a timeout: without one it may wait for ever."""


async def postgres_connection(settings: PostgresSettings, *, command_timeout: float = CONNECT_TIMEOUT) -> Connection:
    """One connection, for example for a health check. A call on it ends within `command_timeout` seconds."""
    username, password = settings.credential()
    return await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        database=settings.database,
        user=username or None,
        password=password.get_secret_value() or None,
        ssl=tls_context(settings.ca) or False,
        timeout=CONNECT_TIMEOUT,
        command_timeout=command_timeout,
    )


@asynccontextmanager
async def postgres_pool(settings: PostgresSettings, *, max_size: int = 8, command_timeout: float = 10.0) -> AsyncGenerator[Pool]:
    """A pool that connects on first use, so that a service starts while its database is away. A call ends within `command_timeout` seconds."""

    async def connect(*_args: object, **_options: object) -> Connection:
        return await postgres_connection(settings, command_timeout=command_timeout)

    pool = asyncpg.create_pool(min_size=0, max_size=max_size, max_inactive_connection_lifetime=60.0, connect=connect)
    async with pool:
        try:
            yield pool
        finally:
            with suppress(TimeoutError):  # the graceful close below would wait for a query that never ends
                await asyncio.wait_for(pool.close(), CONNECT_TIMEOUT)


class _MountedCredentials(CredentialProvider):
    """User name and password as they are on disk when Redis asks."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        username, password = self._settings.credential()
        return username, password.get_secret_value()

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def redis_client(settings: RedisSettings, *, timeout: float = 1.0, single_connection: bool = False) -> Redis:
    """A client for the service's share of Redis; every call ends within `timeout` seconds. It connects on first use."""
    return Redis(
        host=settings.host,
        port=settings.port,
        ssl=settings.ca is not None,
        ssl_ca_certs=None if settings.ca is None else str(settings.ca),
        credential_provider=None if settings.credentials is None else _MountedCredentials(settings),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        single_connection_client=single_connection,
        decode_responses=True,
    )


async def amqp_connection(settings: RabbitmqSettings) -> AbstractConnection:
    """One plain connection to RabbitMQ; when it breaks, the owner opens the next, with the credentials of that moment."""
    username, password = settings.credential()
    return await aio_pika.connect(
        host=settings.host,
        port=settings.port,
        login=username or "guest",
        password=password.get_secret_value() or "guest",
        virtualhost=settings.vhost,
        ssl=settings.ca is not None,
        ssl_context=tls_context(settings.ca),
        timeout=CONNECT_TIMEOUT,
        heartbeat=HEARTBEAT,
    )
