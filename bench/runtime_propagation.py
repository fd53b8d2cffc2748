"""From Consul's answer to the subscriber: one shared query, against a long poll of its own for each subscriber.

The clock starts when the first bytes of a change's answer are here, for both sides, so that Consul's own time is not in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from bench.py_consul import PyConsul
from bench.result import Result
from bench.runtime_support import Subject, fill, instance, percentile
from bench.runtime_support import consul as a_consul
from groundwork.backends.base import Consistency, Indexed
from groundwork.consul.client import ConsulClient
from groundwork.consul.pacing import WatchOptions
from groundwork.consul.transport import Answer
from groundwork.discovery.client import DiscoveryClient
from groundwork.discovery.consul_source import ConsulDiscoverySource

SERVICE = "bench-propagation"
INSTANCES = 20
ROUNDS = 11
PAUSE = 1.1  # seconds between changes: the watch's two tokens are back
LIMIT = 30.0


class Clock:
    """When the first answer of this round was here, and when each subscriber knew."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, port: int) -> None:
        """A change to this port is about to be written."""
        self.port = port
        self.first: float | None = None
        self.seen: list[float] = []

    def answered(self) -> None:
        """An answer is here."""
        if self.first is None:
            self.first = time.perf_counter()

    def knows(self) -> None:
        """A subscriber has the new state."""
        self.seen.append(time.perf_counter())

    async def everybody(self, count: int) -> list[float]:
        """Milliseconds of every subscriber, once all know."""
        async with asyncio.timeout(LIMIT):
            while len(self.seen) < count:  # noqa: ASYNC110 the subscribers must not pay for signalling
                await asyncio.sleep(0.001)
        first = self.first or 0.0
        return [(seen - first) * 1000 for seen in self.seen]


class Timed(ConsulClient):
    """A client that starts the clock when an answer is whole, before it is decoded."""

    clock: Clock

    async def read(
        self, op: str, path: str, params: Mapping[str, str | None], *, index: int | None, wait: float | None, consistency: Consistency
    ) -> tuple[Answer, Indexed[None]]:
        """The same read."""
        answer = await super().read(op, path, params, index=index, wait=wait, consistency=consistency)
        self.clock.answered()
        return answer


async def change(client: ConsulClient, clock: Clock, port: int, count: int) -> list[float]:
    """One change, and how long each subscriber waited for it."""
    clock.begin(port)
    await client.txn(instance(SERVICE, 0, port=port))
    return await clock.everybody(count)


async def rounds(
    writer: ConsulClient, clock: Clock, follow: Callable[[], Coroutine[object, object, None]], subscribers: int, ports: Iterable[int]
) -> list[float]:
    """Milliseconds of every subscriber, over one change to each of the ports. `follow` is one subscriber."""
    tasks = [asyncio.create_task(follow()) for _ in range(subscribers)]
    taken: list[float] = []
    for port in ports:
        await asyncio.sleep(PAUSE)
        taken += await change(writer, clock, port, subscribers)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return taken


async def shared(subject: Subject, subscribers: int) -> list[float]:
    """Ours: one query, fanned out in this process."""
    clock, registry = Clock(), CollectorRegistry()
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(ConsulClient(subject.settings, registry=registry))
        client = await stack.enter_async_context(Timed(subject.settings, registry=registry))
        client.clock = clock
        source = ConsulDiscoverySource(client)
        options = WatchOptions(start_jitter=0)
        discovery = await stack.enter_async_context(DiscoveryClient(source, [SERVICE], options=options, registry=registry))
        await discovery.wait_for(SERVICE, INSTANCES)

        async def follow() -> None:
            async for snapshot in discovery.watch(SERVICE):
                if snapshot.instances[0].port == clock.port:
                    clock.knows()

        return await rounds(writer, clock, follow, subscribers, range(9_000, 9_000 + ROUNDS))


async def own(subject: Subject, subscribers: int) -> list[float]:
    """The peer: py-consul, a blocking query for each subscriber, decoded by each."""
    clock = Clock()
    async with (
        ConsulClient(subject.settings, registry=CollectorRegistry()) as writer,
        PyConsul(subject.host, subject.port, connections=subscribers + 1) as peer,
    ):

        async def follow() -> None:
            index: str | None = None
            while True:
                index, entries = await peer.service(SERVICE, index)
                clock.answered()
                if min((str(entry["Service"]["ID"]), entry["Service"]["Port"]) for entry in entries)[1] == clock.port:
                    clock.knows()

        return await rounds(writer, clock, follow, subscribers, range(19_000, 19_000 + ROUNDS))


async def measure(subject: Subject) -> dict[str, list[float]]:
    """Milliseconds by side and number of subscribers."""
    async with ConsulClient(subject.settings, registry=CollectorRegistry()) as client:
        await fill(client, SERVICE, INSTANCES)
    found: dict[str, list[float]] = {}
    for subscribers in (1, 10, 100):
        found[f"shared {subscribers}"] = await shared(subject, subscribers)
        found[f"own {subscribers}"] = await own(subject, subscribers)
    found["shared 1000"] = await shared(subject, 1_000)
    return found


def run() -> list[Result]:
    """Measures everything once."""
    with a_consul() as subject:
        took = asyncio.run(measure(subject))
    who = f"py-consul, a long poll each, {subject.kind}"
    ours, theirs = percentile(took["shared 100"], 0.5), percentile(took["own 100"], 0.5)
    last = percentile(took["shared 1000"], 0.99)
    results = [
        Result("change -> 100 subscribers, median", ours, theirs, who, "ms", theirs / ours, ">= 10x", theirs / ours >= 10),
        Result(
            "change -> 1,000 subscribers, p99",
            last,
            percentile(took["own 100"], 0.99),
            f"{who}, 100 subscribers",
            "ms",
            percentile(took["own 100"], 0.99) / last,
            "<= 40 ms",
            last <= 40,
        ),
    ]
    for count in (1, 10):
        ours, theirs = percentile(took[f"shared {count}"], 0.99), percentile(took[f"own {count}"], 0.99)
        results.append(Result(f"change -> {count} subscribers, p99", ours, theirs, who, "ms", theirs / ours, "<= 40 ms", ours <= 40))
    return results
