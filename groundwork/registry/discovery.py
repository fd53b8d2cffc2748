"""Discovery through the registry's REST API, for development without Consul: services on one machine see each other through `python -m app`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from groundwork.backends.base import BlockingRead, Indexed, ServiceQuery
from groundwork.discovery.models import Instance, Status
from groundwork.errors import BackendUnavailable, InvalidRequest, NotFound
from groundwork.registry.client import RegistryClient

MAX_WAIT: Final = 30.0  # seconds of one long poll
POLL: Final = 1.0  # seconds between two questions that the API answers at once
T = TypeVar("T")


class _Instance(msgspec.Struct):
    service_id: str
    service_name: str
    address: str
    port: int
    status: str = "passing"
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    weight: int = 1

    def instance(self) -> Instance:
        return Instance(
            id=self.service_id,
            service=self.service_name,
            address=self.address,
            port=self.port,
            status=Status(self.status),
            tags=self.tags,
            meta=tuple(sorted(self.metadata.items())),
            weight=self.weight,
        )


class _Found(msgspec.Struct):
    services: list[_Instance]
    index: int
    stale: bool = False


class _Page(msgspec.Struct):
    services: list[_Instance]
    next: str | None = None


class RestDiscovery:
    """A DiscoverySource over a RegistryClient."""

    name = "registry"

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def service(self, query: ServiceQuery) -> BlockingRead[tuple[Instance, ...]]:
        """A read of all instances of one service, by long poll. Raises InvalidRequest for a filter: the API has parameters instead."""
        if query.filter:
            raise InvalidRequest(f"filter {query.filter!r}: the registry's API evaluates none")
        path = f"/api/v1/services/discover/{quote(query.service, safe='')}?healthy_only=false"

        async def read(*, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[tuple[Instance, ...]]:
            del consistent  # the API reads from its own watch
            wait = min(wait, MAX_WAIT)
            if after == 1:
                await asyncio.sleep(min(wait, POLL))  # of an unknown service there is nothing to wait for
            try:
                polled = f"&index={after}&wait={round(wait * 1000)}ms" if after is not None and after > 1 else ""
                found = _decoded(await self._client.get(path + polled, wait=wait), _Found)
            except NotFound:
                return Indexed(value=(), index=1)
            instances = sorted((one.instance() for one in found.services), key=lambda one: one.id)
            return Indexed(value=tuple(instances), index=found.index, known_leader=not found.stale)

        return read

    def services(self) -> BlockingRead[Mapping[str, tuple[str, ...]]]:
        """A read of all service names with their tags, asked once a second."""
        state: tuple[Mapping[str, tuple[str, ...]], int] = ({}, 1)

        async def read(*, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[Mapping[str, tuple[str, ...]]]:
            nonlocal state
            del consistent
            if after == state[1]:
                await asyncio.sleep(min(wait, POLL))
            names: dict[str, set[str]] = {}
            path: str | None = "/api/v1/services?limit=1000"
            while path is not None:
                page = _decoded(await self._client.get(path), _Page)
                for one in page.services:
                    names.setdefault(one.service_name, set()).update(one.tags)
                path = None if page.next is None else f"/api/v1/services?limit=1000&after={quote(page.next, safe='')}"
            found = {name: tuple(sorted(tags)) for name, tags in sorted(names.items())}
            if found != state[0]:
                state = (found, state[1] + 1)
            return Indexed(value=state[0], index=state[1])

        return read


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BackendUnavailable(f"the registry's answer cannot be read ({error}): does something else listen there?") from None
