"""Reads: a snapshot, a pick and a configuration value from memory, against asking Consul over HTTP as other clients do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median

import aiohttp
import httpx2
import msgspec
from prometheus_client import CollectorRegistry

from bench.py_consul import PyConsul
from bench.result import Result
from bench.runtime_support import Subject, fill
from bench.runtime_support import consul as a_consul
from groundwork.backends.consul import ConsulConfig
from groundwork.config.store import ConfigStore
from groundwork.consul.client import ConsulClient
from groundwork.consul.pacing import WatchOptions
from groundwork.discovery.balancer import LoadBalancer
from groundwork.discovery.client import DiscoveryClient
from groundwork.discovery.consul_source import ConsulDiscoverySource

SIZES = (1, 20, 1_000, 10_000)
ROUNDS = 21
PICKS = 50_000  # several for each instance: the first touch of ten thousand is the memory's price, not the pick's
OPTIONS = WatchOptions(start_jitter=0)


def name(size: int) -> str:
    """The service with that many instances."""
    return f"bench-{size}"


def nanoseconds(call: Callable[[], object], count: int = 5_000) -> float:
    """Time of one call."""
    began = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - began) / count


async def awaited_nanoseconds(call: Callable[[], Awaitable[object]], count: int = 20) -> float:
    """Time of one call, one after another."""
    began = time.perf_counter_ns()
    for _ in range(count):
        await call()
    return (time.perf_counter_ns() - began) / count


async def measure(subject: Subject) -> dict[str, float]:
    """Medians in nanoseconds, all ways taken in turns so that the machine's mood is the same for all."""
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ConsulClient(subject.settings, registry=registry))
        for size in SIZES:
            await fill(client, name(size), size)
        await client.kv_put("config/bench/limits", b'{"requests": 1}')
        source = ConsulDiscoverySource(client)
        discovery = await stack.enter_async_context(DiscoveryClient(source, map(name, SIZES), options=OPTIONS, registry=registry))
        config = await stack.enter_async_context(ConfigStore(ConsulConfig(client), "bench", environment={}, options=OPTIONS, registry=registry))
        await config.ready()
        for size in SIZES:
            await discovery.wait_for(name(size), size, timeout=60)
        balancers = {size: LoadBalancer(discovery, name(size), registry=registry) for size in SIZES}
        plain = await stack.enter_async_context(aiohttp.ClientSession())
        other = await stack.enter_async_context(httpx2.AsyncClient())
        peer = await stack.enter_async_context(PyConsul(subject.host, subject.port))
        url = f"{subject.settings.address}/v1/health/service/{name(20)}"

        async def by_aiohttp() -> object:
            async with plain.get(url) as answer:
                return msgspec.json.decode(await answer.read())

        async def by_httpx2() -> object:
            return msgspec.json.decode((await other.get(url)).content)

        async def by_py_consul() -> object:
            return await peer.service(name(20))

        taken: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for size in SIZES:
                service, pick = name(size), balancers[size].pick
                taken.setdefault(f"snapshot {size}", []).append(nanoseconds(lambda service=service: discovery.snapshot(service)))
                taken.setdefault(f"p2c {size}", []).append(nanoseconds(pick, PICKS))
            taken.setdefault("config", []).append(nanoseconds(lambda: config.get("limits/requests")))
            for label, call in (("aiohttp", by_aiohttp), ("httpx2", by_httpx2), ("py-consul", by_py_consul)):
                taken.setdefault(label, []).append(await awaited_nanoseconds(call))
        found = {label: median(values) for label, values in taken.items()}
        for what in ("snapshot", "p2c"):  # the ratio of each round: both sides had the machine in the same mood
            found[f"{what} flat"] = median(large / small for large, small in zip(taken[f"{what} 10000"], taken[f"{what} 20"], strict=True))
        return found


def run() -> list[Result]:
    """Measures everything once."""
    with a_consul() as subject:
        took = asyncio.run(measure(subject))
    peer = took["py-consul"]
    on = f"at {subject.kind}, 20 instances"

    def faster(what: str, ours: float, than: float, who: str, least: float) -> Result:
        return Result(what, ours, than, who, "ns", than / ours, f">= {least:g}x", than / ours >= least)

    def flat(what: str) -> Result:
        large, small, ratio = took[f"{what} 10000"], took[f"{what} 20"], took[f"{what} flat"]
        return Result(f"{what}, 10,000 instances", large, small, "20 instances", "ns", ratio, "<= 1.2x", ratio <= 1.2)

    return [
        faster("discovery snapshot()", took["snapshot 20"], peer, f"py-consul {on}", 5000),
        faster("p2c pick", took["p2c 20"], peer, f"py-consul {on}", 800),
        faster("discovery snapshot()", took["snapshot 20"], took["aiohttp"], f"bare aiohttp {on}", 1000),
        faster("discovery snapshot()", took["snapshot 20"], took["httpx2"], f"httpx2 {on}", 1000),
        faster("config get()", took["config"], peer, f"py-consul {on}", 100),
        flat("snapshot"),
        flat("p2c"),
    ]
