"""Half an hour of faults (SOAK_SECONDS): memory does not grow, no task is left behind, and the last state is right at the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from groundwork.backends.consul import ConsulConfig
from groundwork.config.store import ConfigStore
from groundwork.config.subscription import ConfigChange
from groundwork.consul.client import ConsulClient
from groundwork.consul.pacing import WatchOptions
from groundwork.consul.transport import TransportLimits
from groundwork.discovery.balancer import LoadBalancer
from groundwork.discovery.client import DiscoveryClient
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.errors import PlatformError
from groundwork.testing.faults import Break, Fault
from groundwork.testing.simulator import ConsulSimulator
from tests.app.consul.support import SERVICE, ids, until

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
OPTIONS = WatchOptions(wait=1, interval=0.02, slowest=0.02, backoff_min=0.01, backoff_max=0.1, linger=0.2, start_jitter=0)
LIMITS = TransportLimits(control=2, connect=0.5, slack=0.3, body=0.3)
FAULTS = (
    Fault.no_leader,
    Fault.denied,
    Fault.filtered,
    Fault.empty,
    lambda: Fault(breaks=Break.DROP),
    lambda: Fault(breaks=Break.TRUNCATE),
    lambda: Fault(breaks=Break.SILENT, blocking=True),
    lambda: Fault(breaks=Break.SLOW),
    Fault.overloaded,
    lambda: Fault(headers={"X-Consul-Index": "0"}),
    lambda: Fault(status=200, body=b"<html>"),
)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def unlogged() -> Generator[None]:
    """pytest keeps every log record until a test ends, with the exceptions in it and their frames: tens of megabytes here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.soak
@pytest.mark.usefixtures("unlogged")
async def test_r48_hours_of_faults_leave_nothing_behind(consul_simulator: ConsulSimulator) -> None:
    random, registry = Random(48), CollectorRegistry()
    at_rest = len(asyncio.all_tasks())
    sizes: list[tuple[float, int]] = []
    async with (
        ConsulClient(consul_simulator.settings, limits=LIMITS, registry=registry) as client,
        DiscoveryClient(ConsulDiscoverySource(client), [SERVICE], options=OPTIONS, registry=registry) as discovery,
        ConfigStore(ConsulConfig(client), "user-service", environment={}, options=OPTIONS, registry=registry) as config,
    ):
        consul_simulator.register(SERVICE, "first")
        await discovery.wait_for(SERVICE)
        balancer = LoadBalancer(discovery, SERVICE, registry=registry)
        heard = 0

        async def hear(change: ConfigChange) -> None:
            nonlocal heard
            heard += 1

        async def follow() -> None:
            async for snapshot in discovery.watch(SERVICE):
                assert snapshot.instances, "never empty because of an error"

        config.subscribe("", hear)
        follower = asyncio.create_task(follow())
        began, turn = time.monotonic(), 0
        while time.monotonic() - began < SECONDS:
            turn += 1
            consul_simulator.register(SERVICE, f"u{random.randrange(20)}", port=1 + random.randrange(60_000))
            consul_simulator.put(f"config/user-service/k{random.randrange(20)}", str(turn))
            if random.random() < 0.2:
                consul_simulator.faults.append(random.choice(FAULTS)())
                consul_simulator.faults[-1].times = random.randrange(1, 5)
            if random.random() < 0.05:
                consul_simulator.faults.clear()
            if random.random() < 0.02:
                await consul_simulator.restart()
            with suppress(PlatformError):
                await discovery.read(f"other-{random.randrange(100)}", timeout=0.05)
            async with balancer.acquire():
                await asyncio.sleep(0.01)
            consul_simulator.requests.clear()
            if turn % 50 == 0:
                gc.collect()
                sizes.append((time.monotonic() - began, resident()))
        consul_simulator.faults.clear()
        consul_simulator.register(SERVICE, "last")
        await until(lambda: "last" in ids(discovery) and not discovery.snapshot(SERVICE).stale and not config.stale)
        assert heard > 0
        follower.cancel()
    await until(lambda: len(asyncio.all_tasks()) <= at_rest and consul_simulator.open_connections == 0)
    half = sizes[len(sizes) // 2 :]
    growth = half[-1][1] - half[0][1]
    assert growth <= 8 * 1024 * 1024, f"memory grew by {growth} bytes in the second half"
