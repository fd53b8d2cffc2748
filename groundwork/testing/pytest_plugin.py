"""Fixtures for tests of services. Not loaded by itself: `pytest_plugins = ["groundwork.testing.pytest_plugin"]` in the top conftest."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest_asyncio

from groundwork.consul.client import ConsulClient
from groundwork.testing.simulator import ConsulSimulator


@pytest_asyncio.fixture
async def consul_simulator() -> AsyncGenerator[ConsulSimulator]:
    """A simulated Consul, empty, on a port of its own."""
    async with ConsulSimulator() as simulator:
        yield simulator


@pytest_asyncio.fixture
async def consul_client(consul_simulator: ConsulSimulator) -> AsyncGenerator[ConsulClient]:
    """A client of the simulated Consul."""
    async with ConsulClient(consul_simulator.settings) as client:
        yield client
