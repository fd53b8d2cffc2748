"""Memory of a service's instances: what stays per instance, and the peak while an answer is read."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from bench.py_consul import PyConsul
from bench.result import Result
from bench.runtime_support import Subject, fill
from bench.runtime_support import consul as a_consul
from groundwork.backends.base import ServiceQuery
from groundwork.consul.client import ConsulClient
from groundwork.consul.models import Consistency
from groundwork.discovery.consul_source import ConsulDiscoverySource

SIZES = (1_000, 10_000)


async def traced(read: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Bytes that stay while the result is held, and bytes at the peak."""
    await read()  # imports, pools and buffers that stay anyway
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    held = await read()
    gc.collect()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del held
    return after - before, peak - before


async def measure(subject: Subject) -> dict[str, float]:
    """Bytes by side and size."""
    found: dict[str, float] = {}
    async with ConsulClient(subject.settings, registry=CollectorRegistry()) as client, PyConsul(subject.host, subject.port) as peer:
        for size in SIZES:
            service = f"bench-memory-{size}"
            await fill(client, service, size)

            async def ours(service: str = service) -> object:
                return (await ConsulDiscoverySource(client).service(ServiceQuery(service))()).value

            async def theirs(service: str = service) -> object:
                return (await peer.service(service))[1]

            path = f"/v1/health/service/{service}"
            answer, _ = await client.read("health_service", path, {}, index=None, wait=None, consistency=Consistency.DEFAULT)
            found[f"payload {size}"] = len(answer.body)
            found[f"ours {size}"], found[f"ours peak {size}"] = await traced(ours)
            found[f"theirs {size}"], found[f"theirs peak {size}"] = await traced(theirs)
    return found


def run() -> list[Result]:
    """Measures everything once."""
    with a_consul() as subject:
        took = asyncio.run(measure(subject))
    who = f"py-consul's dicts, {subject.kind}"
    results: list[Result] = []
    for size in SIZES:
        ours, theirs = took[f"ours {size}"] / size, took[f"theirs {size}"] / size
        results.append(Result(f"retained per instance, {size:,} instances", ours, theirs, who, "B", theirs / ours, "<= 400 B", ours <= 400))
        payload = took[f"payload {size}"]
        peak, other = took[f"ours peak {size}"] / payload, took[f"theirs peak {size}"] / payload
        what = f"peak while reading, in sizes of the answer, {size:,} instances"
        results.append(Result(what, peak, other, who, "x", other / peak, "<= 1.5x the answer", peak <= 1.5))
    return results
