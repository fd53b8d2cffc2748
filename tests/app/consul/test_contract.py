"""One contract, the simulator and a real Consul: what the simulator promises is what Consul does."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from groundwork.backends.base import ConfigSource, DiscoverySource
from groundwork.backends.consul import ConsulConfig
from groundwork.consul.client import ConsulClient
from groundwork.consul.txn import CheckSet, NodeSet, ServiceDelete, ServiceSet
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.discovery.models import Status
from groundwork.testing.contract import Backend, ConsulContract, SourceContract
from groundwork.testing.simulator import ConsulSimulator
from tests.app.consul.real import RealConsul, real_consul

__all__ = ["real_consul"]

NODE = "contract-node"


class ConsulBackend:
    """A back end on a client of Consul."""

    def __init__(self, client: ConsulClient) -> None:
        self._client = client
        self.discovery: DiscoverySource = ConsulDiscoverySource(client)
        self.config: ConfigSource = ConsulConfig(client)

    async def register(self, service: str, service_id: str, *, status: Status = Status.PASSING, zone: str = "") -> None:
        """Registers an instance, or changes its status."""
        row = ServiceSet(NODE, service_id, service, "192.0.2.7", 80, meta={"zone": zone} if zone else {})
        await self._client.txn([NodeSet(NODE, "192.0.2.1"), row, CheckSet(NODE, f"lease:{service_id}", "lease", status.value, service_id)])

    async def deregister(self, service_id: str) -> None:
        """Removes an instance."""
        await self._client.txn([ServiceDelete(NODE, service_id)])


class TestSimulator(ConsulContract):
    """The simulator's HTTP API."""

    @pytest_asyncio.fixture
    async def consul(self, consul_simulator: ConsulSimulator) -> AsyncGenerator[ConsulClient]:
        async with ConsulClient(consul_simulator.settings) as client:
            yield client


class TestRealConsul(ConsulContract):
    """Consul's HTTP API."""

    @pytest_asyncio.fixture
    async def consul(self, real_consul: RealConsul) -> AsyncGenerator[ConsulClient]:
        async with ConsulClient(real_consul.settings) as client:
            yield client


class TestSourcesOnTheSimulator(SourceContract):
    """Discovery and configuration on the simulator."""

    @pytest.fixture
    def backend(self, consul_client: ConsulClient) -> Backend:
        return ConsulBackend(consul_client)


class TestSourcesOnRealConsul(SourceContract):
    """Discovery and configuration on Consul."""

    @pytest_asyncio.fixture
    async def backend(self, real_consul: RealConsul) -> AsyncGenerator[Backend]:
        async with ConsulClient(real_consul.settings) as client:
            yield ConsulBackend(client)
