"""A hundred changes a second: how often Consul is asked, how late the loop runs, and whether the last value arrives."""

from __future__ import annotations

import asyncio
import sys
import time

from prometheus_client import CollectorRegistry

from bench.py_consul import PyConsul
from bench.result import Result
from bench.runtime_support import Subject, fill, percentile
from bench.runtime_support import consul as a_consul
from groundwork.consul.client import ConsulClient
from groundwork.consul.pacing import WatchOptions
from groundwork.discovery.client import DiscoveryClient
from groundwork.discovery.consul_source import ConsulDiscoverySource

SERVICE = "bench-churn"
RATE, SECONDS, PEER_SECONDS = 100.0, 30.0, 5.0
INSTANCES = 20


async def writing(subject: Subject, seconds: float) -> asyncio.subprocess.Process:
    """The writer, started."""
    arguments = (subject.host, str(subject.port), SERVICE, str(RATE), str(seconds))
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.churn_writer", *arguments)


async def lag(into: list[float]) -> None:
    """Milliseconds by which the loop is late, every 5 ms."""
    while True:
        due = time.perf_counter() + 0.005
        await asyncio.sleep(0.005)
        into.append(max(0.0, time.perf_counter() - due) * 1000)


async def ours(subject: Subject) -> tuple[float, float, bool]:
    """Requests a second, p99 of the loop's lag in ms, and whether the last value was seen."""
    registry = CollectorRegistry()
    async with (
        ConsulClient(subject.settings, registry=registry) as client,
        DiscoveryClient(ConsulDiscoverySource(client), [SERVICE], options=WatchOptions(start_jitter=0), registry=registry) as discovery,
    ):
        await discovery.wait_for(SERVICE, INSTANCES)
        writer = await writing(subject, SECONDS)
        while discovery.snapshot(SERVICE).instances[0].port == 8000:  # noqa: ASYNC110 the churn has begun when it is seen
            await asyncio.sleep(0.01)
        lags: list[float] = []
        task = asyncio.create_task(lag(lags))
        began, before = time.perf_counter(), requests(registry)
        await writer.wait()
        spent, asked = time.perf_counter() - began, requests(registry) - before
        task.cancel()
        last = 10_000 + int(RATE * SECONDS)
        async with asyncio.timeout(30):
            while discovery.snapshot(SERVICE).instances[0].port != last:  # noqa: ASYNC110 a benchmark looks from outside
                await asyncio.sleep(0.01)
        return asked / spent, percentile(lags, 0.99), discovery.snapshot(SERVICE).instances[0].port == last


def requests(registry: CollectorRegistry) -> float:
    """Requests about the service so far."""
    return registry.get_sample_value("consul_request_seconds_count", {"op": "health_service", "code": "200"}) or 0.0


async def theirs(subject: Subject) -> tuple[float, float]:
    """The peer: a plain loop over py-consul's blocking query. Requests a second and p99 of the loop's lag."""
    asked, lags = 0, list[float]()

    async def follow() -> None:
        nonlocal asked
        index: str | None = None
        while True:
            index, _ = await peer.service(SERVICE, index)
            asked += 1

    async with PyConsul(subject.host, subject.port) as peer:
        writer = await writing(subject, PEER_SECONDS)
        tasks = [asyncio.create_task(follow()), asyncio.create_task(lag(lags))]
        began = time.perf_counter()
        await writer.wait()
        spent = time.perf_counter() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return asked / spent, percentile(lags, 0.99)


async def measure(subject: Subject) -> tuple[tuple[float, float, bool], tuple[float, float]]:
    """Both sides, one after the other."""
    async with ConsulClient(subject.settings, registry=CollectorRegistry()) as client:
        await fill(client, SERVICE, INSTANCES)
    return await ours(subject), await theirs(subject)


def steady(rate: float) -> bool:
    """Whether `rate`, the burst at the start included, is at most two requests a second after it."""
    return rate * SECONDS <= 2.0 * SECONDS + 2


def run() -> list[Result]:
    """Measures everything once."""
    with a_consul() as subject:
        (rate, late, right), (peer_rate, peer_late) = asyncio.run(measure(subject))
    who = f"a loop over py-consul, {subject.kind}"
    return [
        # The watch's bucket starts with two requests in hand: they come on top of two a second.
        Result("requests to Consul at 100 changes/s", rate, peer_rate, who, "1/s", peer_rate / rate, "<= 2 1/s after a burst of 2", steady(rate)),
        Result("loop lag at 100 changes/s, p99", late, peer_late, who, "ms", peer_late / max(late, 1e-6), "<= 50 ms", late <= 50),
        Result("last value right after 100 changes/s", float(right), 1.0, "what was written last", "", float(right), "= 1", right),
    ]
