"""RabbitMQ: a connection that verifies the server and logs in with what is on disk when it is made, and the health check."""

from __future__ import annotations

import asyncio
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from groundwork.engines.kind import CONNECT_TIMEOUT, tls_context
from groundwork.settings import RabbitmqSettings, Settings

HEARTBEAT = 10  # seconds between RabbitMQ's signs of life: a dead server is noticed after two

UNAVAILABLE: Final[tuple[type[Exception], ...]] = (
    OSError,  # refused, reset, timed out
    aio_pika.exceptions.AMQPError,
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
        ssl_context=tls_context(settings.ca) if settings.ca else None,
        timeout=CONNECT_TIMEOUT,
        heartbeat=HEARTBEAT,
    )


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
                connection = await amqp_connection(self._settings)
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


def check(settings: Settings, _consul: object) -> RabbitmqCheck | None:
    """The check of the service's virtual host."""
    return None if settings.rabbitmq is None else RabbitmqCheck(settings.rabbitmq)


async def _close(connection: AbstractConnection) -> None:
    async with asyncio.timeout(1.0):
        await connection.close()
