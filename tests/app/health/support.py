"""Checks that do as they are told, and an application around them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx2

from groundwork.health import HealthRegistry
from groundwork.metrics import Metrics
from groundwork.web.app import create_app
from groundwork.web.guard import Guard


class Probe:
    """A check whose behaviour can be changed, and which counts its calls."""

    component_type = "datastore"

    def __init__(self, name: str = "probe", behaviour: Callable[[], Awaitable[None]] | None = None) -> None:
        self.name = name
        self.calls = 0
        self.closed = False
        self.behaviour = behaviour or well

    async def run(self) -> None:
        self.calls += 1
        await self.behaviour()

    async def close(self) -> None:
        self.closed = True


async def well() -> None:
    """All is well."""


async def hang() -> None:
    """Never comes back."""
    await asyncio.Event().wait()


def hang_until(end: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """Swallows its cancellation until `end`."""

    async def behaviour() -> None:
        while not end.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(end.wait(), 3600)

    return behaviour


def fails(error: BaseException) -> Callable[[], Awaitable[None]]:
    """Raises `error`."""

    async def behaviour() -> None:
        raise error

    return behaviour


def registry(*, version: str = "1") -> HealthRegistry:
    """The health of a service that has started."""
    health = HealthRegistry(service="test", version=version, metrics=Metrics())
    health.mark_ready()
    return health


def client(health: HealthRegistry, *, details: str = "never", guard: Guard | None = None) -> httpx2.AsyncClient:
    """A client of the health routes."""
    metrics = Metrics()
    guard = guard or Guard(None, metrics=metrics, rate=1e6)
    app = create_app("test", version="1", health=health, metrics=metrics, guard=guard, docs=False, details=details, body_limit=lambda _: 1024)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")


async def until(condition: Callable[[], bool]) -> None:
    """Until it holds; ends what would never end."""
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)
