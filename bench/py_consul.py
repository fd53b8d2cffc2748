"""The peer of the runtime's benchmarks, py-consul, with the types that it does not have."""

from __future__ import annotations

from typing import Self, cast

import consul.aio

Entry = dict[str, dict[str, object]]


class PyConsul:
    """Its asynchronous client, as its users open it."""

    def __init__(self, host: str, port: int, *, connections: int | None = None) -> None:
        self._client = consul.aio.Consul(host=host, port=port, connections_limit=connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def service(self, name: str, index: str | None = None) -> tuple[str, list[Entry]]:
        """The index and the instances of a service; with an index, a blocking query."""
        wait = None if index is None else "60s"
        answer: object = await self._client.health.service(name, index=index, wait=wait)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] py-consul has no types
        return cast("tuple[str, list[Entry]]", answer)

    async def register(self, name: str, identity: str) -> None:
        """Register an instance with the agent."""
        await self._client.agent.service.register(name, service_id=identity, address="10.1.2.3", port=8000)  # pyright: ignore[reportUnknownMemberType]

    async def deregister(self, identity: str) -> None:
        """Remove an instance from the agent."""
        await self._client.agent.service.deregister(identity)  # pyright: ignore[reportUnknownMemberType]
