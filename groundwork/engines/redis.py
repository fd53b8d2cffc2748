"""Redis: a client that verifies the server and logs in with what is on disk when it connects, and the health check."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final

import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.connection import RedisSSLContext, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from groundwork.engines.kind import tls_context
from groundwork.settings import RedisSettings, Settings

UNAVAILABLE: Final[tuple[type[Exception], ...]] = (
    OSError,  # what redis-py lets through of refused, reset, timed out
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)


class _MountedCredentials(CredentialProvider):
    """User name and password as they are on disk when Redis asks."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        username, password = self._settings.credential()
        return username, password.get_secret_value()

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class _MountedCa(RedisSSLContext):
    """The CA as it is on disk now, and no other: redis-py's own context trusts the machine's authorities too, and a reconnect does not read again."""

    def __init__(self, ca: Path) -> None:
        super().__init__(cert_reqs="required", check_hostname=True)  # pyright: ignore[reportUnknownMemberType] - half typed
        self._ca = ca

    def get(self) -> ssl.SSLContext:
        return tls_context(self._ca)


class _TlsConnection(SSLConnection):
    def __init__(self, *, ssl_ca_certs: str, **options: object) -> None:
        super().__init__(**options)  # pyright: ignore[reportArgumentType, reportUnknownMemberType] - passed on as they are
        self.ssl_context = _MountedCa(Path(ssl_ca_certs))


def redis_client(settings: RedisSettings, *, timeout: float = 1.0, single_connection: bool = False) -> Redis:
    """A client for the service's share of Redis. It connects on first use.

    Connecting, logging in and asking each end within `timeout` seconds. What times out is not tried again, what meets a broken connection
    once, because a server that was restarted leaves broken ones in the pool.
    """
    client = Redis(
        host=settings.host,
        port=settings.port,
        ssl=settings.ca is not None,
        ssl_ca_certs=None if settings.ca is None else str(settings.ca),
        credential_provider=None if settings.credentials is None else _MountedCredentials(settings),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,)),
        single_connection_client=single_connection,
        decode_responses=True,
    )
    if settings.ca is not None:
        client.connection_pool.connection_class = _TlsConnection
    return client


class RedisCheck:
    """PING must answer PONG: a server that still loads its data, or refuses the password, does not.

    It owns its connection: a cancelled call on a shared one could hand its answer to somebody else (redis-py#2665).
    """

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
            client = redis_client(self._settings, timeout=self._timeout, single_connection=True)
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


def check(settings: Settings, _consul: object) -> RedisCheck | None:
    """The check of the service's Redis."""
    return None if settings.redis is None else RedisCheck(settings.redis, timeout=settings.check_timeout_seconds)
