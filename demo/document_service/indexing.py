"""From the outbox through RabbitMQ into the index. Messages may come twice or late, but every document is indexed in the end."""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from demo.document_service.cache import Cache
from demo.document_service.store import Documents
from groundwork.engines.rabbitmq import amqp_connection
from groundwork.settings import RabbitmqSettings

QUEUE = "documents.index"
LOOK_SECONDS = 1.0  # between two looks into the outbox, unless there is work
RETRY_SECONDS = 1.0
CONFIRM_SECONDS = 5.0

log = structlog.stdlib.get_logger(__name__)


class Indexing:
    """One connection to RabbitMQ: sends what the outbox holds, and indexes what arrives. A broken connection is made again."""

    def __init__(self, settings: RabbitmqSettings, documents: Documents, cache: Cache) -> None:
        self._settings = settings
        self._documents = documents
        self._cache = cache
        self._work = asyncio.Event()

    def wake(self) -> None:
        """There is something in the outbox."""
        self._work.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                async with await amqp_connection(self._settings) as connection:
                    channel = await connection.channel(publisher_confirms=True)
                    await channel.set_qos(prefetch_count=16)
                    queue = await channel.declare_queue(QUEUE, durable=True, timeout=CONFIRM_SECONDS)
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._send(channel))
                        group.create_task(self._receive(queue))
            except* Exception as error:  # whatever it is, the outbox still holds what is to be done
                log.warning("indexing pauses", error=type(error.exceptions[0]).__name__)
            await asyncio.sleep(RETRY_SECONDS)

    async def _send(self, channel: AbstractChannel) -> None:
        """Publishes with confirmation: after `sent` the message is on RabbitMQ's disk."""
        while True:
            self._work.clear()
            found = await self._documents.unsent()
            for document_id in found:
                message = Message(document_id.bytes, delivery_mode=DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, QUEUE, timeout=CONFIRM_SECONDS)
            if found:
                await self._documents.sent(found)
                continue
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._work.wait()
            except TimeoutError:
                pass

    async def _receive(self, queue: AbstractQueue) -> None:
        async with queue.iterator() as messages:
            async for message in messages:
                await self._index(message)
        raise ConnectionError("RabbitMQ closed the connection")  # the iteration just ends: the sender must not wait on alone

    async def _index(self, message: AbstractIncomingMessage) -> None:
        """Acknowledged only when the document is in the index; unacknowledged messages come again when the connection ends."""
        if len(message.body) != len(UUID(int=0).bytes):
            await message.reject()  # nothing that this service sent
            return
        document = await self._documents.index(UUID(bytes=message.body))
        if document is not None:
            await self._cache.put(document)
        await message.ack()
