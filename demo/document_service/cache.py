"""Documents in Redis. The cache may lose everything or be away: then it is only slower."""

from __future__ import annotations

from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from demo.document_service.models import Document

SECONDS = 600

log = structlog.stdlib.get_logger(__name__)


class Cache:
    """Remembers indexed documents for ten minutes."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix

    async def get(self, document_id: UUID) -> Document | None:
        """The document, None where the cache has none or is away."""
        try:
            text = await self._redis.get(self._key(document_id))
        except (RedisError, OSError) as error:
            log.warning("cache is away", error=type(error).__name__)
            return None
        return None if text is None else Document.model_validate_json(text)

    async def put(self, document: Document) -> None:
        """Remember the document if that is possible now."""
        try:
            await self._redis.set(self._key(document.id), document.model_dump_json(), ex=SECONDS)
        except (RedisError, OSError) as error:
            log.warning("cache is away", error=type(error).__name__)

    def _key(self, document_id: UUID) -> str:
        return f"{self._prefix}document:{document_id}"
