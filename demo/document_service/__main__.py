"""The document service: its API and how it is put together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

import aiohttp
from fastapi import FastAPI, Query

from demo.document_service.cache import Cache
from demo.document_service.indexing import Indexing
from demo.document_service.models import Document, FoundDocument, Limits, NewDocument
from demo.document_service.store import TABLES, Documents
from demo.schema import SchemaCheck
from groundwork import Platform, serving
from groundwork.config.binding import Bound
from groundwork.discovery.models import Instance
from groundwork.engines.postgres import postgres_pool
from groundwork.engines.redis import redis_client
from groundwork.errors import BackendUnavailable, InvalidRequest, InvalidSettings, NotFound, PayloadTooLarge
from groundwork.web.problem import responses

USER_SERVICE_SECONDS = 2.0


class Users:
    """The user service, wherever the platform finds it."""

    def __init__(self, p: Platform, http: aiohttp.ClientSession) -> None:
        self._discovery = p.discovery
        self._balancer = p.balancer("user-service")
        self._http = http

    async def exist(self, user_id: UUID) -> bool:
        """Whether there is such a user; asks a second instance where the first one cannot be reached. Raises BackendUnavailable."""

        async def ask(instance: Instance) -> int:
            async with self._http.get(instance.url(f"/api/v1/users/{user_id}")) as response:
                return response.status

        await self._discovery.wait_for("user-service", timeout=USER_SERVICE_SECONDS)  # at once, but for the first seconds of both
        try:
            status = await self._balancer.call(ask)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BackendUnavailable(f"user-service cannot be reached ({type(error).__name__})") from error
        if status not in {200, 404}:
            raise BackendUnavailable(f"user-service answered {status}")
        return status == 200


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes work on."""

    documents: Documents
    cache: Cache
    indexing: Indexing
    users: Users
    limits: Bound[Limits]


def routes(app: FastAPI, parts: Parts) -> None:
    """The service's API."""

    @app.post("/api/v1/documents", status_code=201, responses=responses(400, 413, 503))
    async def create(new: NewDocument) -> Document:
        most = parts.limits.current.max_body_chars
        if len(new.body) > most:
            raise PayloadTooLarge(f"body has {len(new.body)} characters, at most {most} are allowed")
        if not await parts.users.exist(new.author_id):
            raise InvalidRequest(f"author_id: there is no user {new.author_id}")
        document = Document(**new.model_dump(), id=uuid4(), created_at=datetime.now(UTC))
        await parts.documents.add(document)
        parts.indexing.wake()
        return document

    @app.get("/api/v1/documents/{document_id}", responses=responses(400, 404, 503))
    async def read(document_id: UUID) -> FoundDocument:
        cached = await parts.cache.get(document_id)
        if cached is not None:
            return FoundDocument(**cached.model_dump(), source="cache")
        found = await parts.documents.get(document_id)
        if found is None:
            raise NotFound(f"there is no document {document_id}")
        if found.indexed:  # what will still change is not cached
            await parts.cache.put(found)
        return FoundDocument(**found.model_dump(), source="database")

    @app.get("/api/v1/documents", responses=responses(400, 503))
    async def search(q: Annotated[str, Query(min_length=1, max_length=100, pattern=r"^\w+$")]) -> list[Document]:
        return await parts.documents.search(q)

    del create, read, search


async def main() -> None:
    """Serve until SIGTERM."""
    p = Platform.from_env(service="document-service")
    settings = p.settings
    if settings.postgres is None or settings.redis is None or settings.rabbitmq is None:
        raise InvalidSettings("document-service needs postgres, redis and rabbitmq: add them to the service's `uses` in the stack file")
    timeout = aiohttp.ClientTimeout(total=USER_SERVICE_SECONDS)
    async with (
        postgres_pool(settings.postgres) as pool,
        redis_client(settings.redis) as redis,
        aiohttp.ClientSession(timeout=timeout) as http,
        p,
    ):
        documents, cache = Documents(pool), Cache(redis, settings.redis.key_prefix)
        indexing = Indexing(settings.rabbitmq, documents, cache)
        users = Users(p, http)
        p.health.add(SchemaCheck(pool, "documents", TABLES), timeout=5.0)
        p.run(indexing.run(), name="indexing")
        app = p.app("Document service")
        routes(app, Parts(documents, cache, indexing, users, p.config.bind("limits", Limits)))
        await p.serve(app)


if __name__ == "__main__":
    serving.run(main())
