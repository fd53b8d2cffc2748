"""Opens the back end that the settings name."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from groundwork.backends.base import ConfigSource, DiscoverySource
from groundwork.backends.consul import ConsulConfig, ConsulRegistry
from groundwork.backends.memory import MemoryConfig, MemoryDiscovery, MemoryRegistry, MemoryStore
from groundwork.backends.registry import RegistryBackend
from groundwork.consul.client import ConsulClient
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.settings import Settings


@dataclass(frozen=True, slots=True)
class Backends:
    """Three views of one back end, and the client of Consul where it is Consul."""

    registry: RegistryBackend
    discovery: DiscoverySource
    config: ConfigSource
    consul: ConsulClient | None = None


@asynccontextmanager
async def connect(settings: Settings, *, registry: CollectorRegistry) -> AsyncGenerator[Backends]:
    """The back end of this process. It is not asked anything here: a process starts while its back end is away."""
    if settings.effective_backend == "memory" or settings.consul is None:
        store = MemoryStore()
        yield Backends(MemoryRegistry(store), MemoryDiscovery(store), MemoryConfig(store))
        return
    async with ConsulClient(settings.consul, registry=registry) as client:
        records = ConsulRegistry(client, holder=settings.instance_id)
        try:
            yield Backends(records, ConsulDiscoverySource(client), ConsulConfig(client), client)
        finally:
            await records.close()
