"""What the tests of watches share: quick options, a client on a simulator, and waiting for something to become true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from groundwork.consul.client import ConsulClient
from groundwork.consul.pacing import WatchOptions
from groundwork.consul.transport import TransportLimits
from groundwork.discovery.client import DiscoveryClient
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.settings import ConsulSettings

SERVICE = "user-service"
PATIENCE = 20.0  # seconds; only a fault makes a test wait that long

QUICK = WatchOptions(wait=5, interval=0.005, slowest=0.005, backoff_min=0.005, backoff_max=0.02, linger=0.05, start_jitter=0)
QUICK_LIMITS = TransportLimits(control=5, connect=1, slack=5, body=0.3)


@asynccontextmanager
async def watching(
    settings: ConsulSettings,
    *services: str,
    options: WatchOptions = QUICK,
    limits: TransportLimits = QUICK_LIMITS,
    registry: CollectorRegistry | None = None,
) -> AsyncGenerator[DiscoveryClient]:
    """A discovery client that watches the services."""
    registry = registry or CollectorRegistry()
    async with (
        ConsulClient(settings, limits=limits, registry=registry) as client,
        DiscoveryClient(ConsulDiscoverySource(client), services, options=options, registry=registry) as discovery,
    ):
        yield discovery


async def until(true: Callable[[], bool]) -> None:
    """Returns when it has become true."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 what is awaited happens outside of this process's objects
            await asyncio.sleep(0.002)


def ids(discovery: DiscoveryClient, service: str = SERVICE) -> list[str]:
    """Ids in the snapshot; empty before the first answer."""
    known = discovery.freshness(service)
    return [instance.id for instance in discovery.snapshot(service).instances] if known is not None and known.loaded_at is not None else []
