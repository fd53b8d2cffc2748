"""Consul: the health check. The client is `groundwork.consul`."""

from __future__ import annotations

from typing import Final, Protocol

from groundwork.consul.client import ConsulClient
from groundwork.errors import BackendUnavailable
from groundwork.health.model import CheckFailed
from groundwork.settings import Settings

UNAVAILABLE: Final[tuple[type[Exception], ...]] = (BackendUnavailable,)


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


def check(settings: Settings, consul: ConsulClient | None) -> ConsulCheck | None:
    """The check of Consul, over the process's own client; None where the service was told to keep to the embedded back end."""
    return None if settings.consul is None or consul is None else ConsulCheck(consul)
