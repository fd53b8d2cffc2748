"""The back ends that must pass the same contract: memory, the simulator of Consul, and Consul itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from groundwork.auth import ANONYMOUS, Principal
from groundwork.backends.base import ConfigSource, DiscoverySource
from groundwork.backends.consul import ConsulConfig, ConsulRegistry
from groundwork.backends.memory import MemoryConfig, MemoryDiscovery, MemoryRegistry, MemoryStore
from groundwork.backends.registry import RegistryBackend
from groundwork.consul.client import ConsulClient
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.discovery.models import Status
from groundwork.registry.models import CheckSpec, Registration
from groundwork.registry.service import ServiceRegistry
from groundwork.settings import ConsulSettings
from groundwork.testing.simulator import ConsulSimulator
from tests.app.consul.real import RealConsul, real_consul

__all__ = ["Clock", "Kind", "backend", "leads", "real_consul", "tenant", "wish"]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wish(service: str = "user-service", service_id: str = "", *, port: int = 8000, ttl: str = "30s", deregister_after: str = "60s") -> Registration:
    """A registration."""
    check = CheckSpec(ttl=ttl, deregister_after=deregister_after)
    return Registration(service_name=service, service_id=service_id or f"{service}-1", address="10.1.2.3", port=port, check=check)


def tenant(service: str, *, subject: str = "", issuer: str = "test") -> Principal:
    """The caller who owns `service`; another one with another subject or issuer."""
    scopes = frozenset({"registry:read", "registry:write"})
    return Principal(subject=subject or f"system:serviceaccount:demo:{service}", issuer=issuer, scopes=scopes, service=service)


@dataclass
class Kind:
    """A back end under test; `again` is another replica's view of the same one."""

    name: str
    records: RegistryBackend
    again: RegistryBackend
    discovery: DiscoverySource
    config: ConfigSource
    clock: Clock

    @property
    def registry(self) -> ServiceRegistry:
        """The registry of one replica."""
        return ServiceRegistry(self.records, clock=self.clock)

    async def leading(self) -> ServiceRegistry:
        """The registry of the replica that ends leases."""
        assert await leads(self.records)
        return self.registry

    async def register(self, service: str, service_id: str, *, status: Status = Status.PASSING) -> None:
        """Register an instance, or change its status."""
        await self.registry.register(wish(service, service_id), ANONYMOUS)
        await self.registry.heartbeat(service_id, status, ANONYMOUS)

    async def deregister(self, service_id: str) -> None:
        """Remove an instance."""
        await self.registry.deregister(service_id, ANONYMOUS)


async def leads(records: RegistryBackend) -> bool:
    """Whether it gets the lead within ten seconds: a lock that was given back stays closed for one."""
    for _ in range(100):
        if await records.lead():
            return True
        await asyncio.sleep(0.1)
    return False


@pytest_asyncio.fixture(params=["memory", "simulator", "consul"])
async def backend(request: pytest.FixtureRequest) -> AsyncGenerator[Kind]:
    """Each of the three, empty but for what earlier tests of the module left in Consul."""
    clock = Clock()
    kind = str(request.param)
    if kind == "memory":
        store = MemoryStore()
        records = MemoryRegistry(store)
        yield Kind(kind, records, records, MemoryDiscovery(store), MemoryConfig(store), clock)
        return
    async with AsyncExitStack() as stack:
        settings: ConsulSettings
        if kind == "simulator":
            settings = (await stack.enter_async_context(ConsulSimulator())).settings
        else:
            real: RealConsul = request.getfixturevalue("real_consul")
            settings = real.settings
        client = await stack.enter_async_context(ConsulClient(settings))
        first, second = ConsulRegistry(client, holder="first"), ConsulRegistry(client, holder="second")
        stack.push_async_callback(first.close)
        stack.push_async_callback(second.close)
        yield Kind(kind, first, second, ConsulDiscoverySource(client), ConsulConfig(client), clock)
