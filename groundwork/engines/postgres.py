"""PostgreSQL: connections that verify the server and log in with what is on disk when they are made, a pool of them, and the health check."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from groundwork.engines.kind import CONNECT_TIMEOUT, tls_context
from groundwork.health.model import CheckFailed
from groundwork.settings import PostgresSettings, Settings

if TYPE_CHECKING:
    from asyncpg.pool import PoolAcquireContext

ACQUIRE_TIMEOUT = 5.0  # seconds
IDLE_SECONDS = 60.0  # an unused connection is closed after them

UNAVAILABLE: Final[tuple[type[Exception], ...]] = (
    OSError,  # refused, reset, timed out
    asyncpg.InterfaceError,  # asyncpg's own word for a connection that is gone
    asyncpg.InternalClientError,  # and what it says when the server dies within a transaction that is being cancelled
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # the server stops or starts
    asyncpg.InsufficientResourcesError,
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def postgres_connection(settings: PostgresSettings, *, command_timeout: float = CONNECT_TIMEOUT) -> Connection:
    """One connection, for example for a health check. A call on it ends within `command_timeout` seconds."""
    username, password = settings.credential()
    return await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        database=settings.database,
        user=username or None,
        password=password.get_secret_value() or None,
        ssl=tls_context(settings.ca) if settings.ca else False,
        timeout=CONNECT_TIMEOUT,
        command_timeout=command_timeout,
    )


class Pool(asyncpg.Pool[asyncpg.Record] if TYPE_CHECKING else asyncpg.Pool):
    """Connections to one database. Nobody waits for one longer than the pool's deadline, whether by `acquire` or by a call on the pool itself."""

    def __init__(self, settings: PostgresSettings, *, max_size: int, acquire_timeout: float, command_timeout: float) -> None:
        async def connect(*_args: object, **_options: object) -> Connection:
            return await postgres_connection(settings, command_timeout=command_timeout)

        super().__init__(
            min_size=0,
            max_size=max_size,
            max_queries=50_000,  # asyncpg's default
            max_inactive_connection_lifetime=IDLE_SECONDS,
            connect=connect,
            loop=None,
            connection_class=asyncpg.Connection,
            record_class=asyncpg.Record,
        )
        self._acquire_timeout = acquire_timeout

    def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext[asyncpg.Record]:
        """A connection within `timeout` seconds, else within the pool's own deadline. Raises TimeoutError where none becomes free."""
        return super().acquire(timeout=self._acquire_timeout if timeout is None else timeout)


@asynccontextmanager
async def postgres_pool(
    settings: PostgresSettings, *, max_size: int | None = None, acquire_timeout: float = ACQUIRE_TIMEOUT, command_timeout: float = 10.0
) -> AsyncGenerator[Pool]:
    """A pool of `pool_size` connections that connects on first use, so that a service starts while its database is away.

    A free connection comes within `acquire_timeout` seconds, and a call ends within `command_timeout`. Only who splits `pool_size` among
    several pools sets `max_size`: the server has room for `pool_size` from each process.
    """
    pool = Pool(settings, max_size=max_size or settings.pool_size, acquire_timeout=acquire_timeout, command_timeout=command_timeout)
    async with pool:
        try:
            yield pool
        finally:
            with suppress(TimeoutError):  # the graceful close below would wait for a query that never ends
                await asyncio.wait_for(pool.close(), CONNECT_TIMEOUT)


class PostgresCheck:
    """`SELECT 1` in effect, and the server must accept writes: a standby after a failover is not the database that the service needs.

    It owns its connection: a busy pool of the service is not a sick database.
    """

    name = "postgres"
    component_type = "datastore"

    def __init__(self, settings: PostgresSettings, *, writable: bool = True) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self._writable = writable

    async def run(self) -> None:
        """Ask the database whether it answers and accepts writes."""
        read_only = await self._fetch("SELECT pg_is_in_recovery()")
        if read_only and self._writable:
            raise CheckFailed("read-only")

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _fetch(self, query: str) -> object:
        connection, self._connection = self._connection, None  # put back only after a whole answer
        if connection is None:
            connection = await postgres_connection(self._settings)
        try:
            answer = await connection.fetchval(query)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return answer


def check(settings: Settings, _consul: object) -> PostgresCheck | None:
    """The check of the service's database."""
    return None if settings.postgres is None else PostgresCheck(settings.postgres)
