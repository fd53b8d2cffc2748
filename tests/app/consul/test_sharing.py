"""One watch per question, asked no more often than agreed, however many listen and however much changes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from groundwork.backends.base import Indexed
from groundwork.consul.client import ConsulClient
from groundwork.consul.hub import WatchHub
from groundwork.consul.metrics import consul_metrics
from groundwork.consul.pacing import CONFIG, DISCOVERY, TokenBucket, WatchOptions, backoff
from groundwork.discovery.client import DiscoveryClient, ServiceSnapshot
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.discovery.errors import NotLoaded
from groundwork.errors import BackendUnavailable, InvalidRequest, RateLimited
from groundwork.supervision import Supervisor
from groundwork.testing.faults import Fault
from groundwork.testing.simulator import ConsulSimulator
from tests.app.consul.support import PATIENCE, QUICK, SERVICE, ids, until, watching

HEALTH = f"/v1/health/service/{SERVICE}"


def is_stale(discovery: DiscoveryClient) -> bool:
    known = discovery.peek(SERVICE)
    return known is not None and known.stale


async def collect(discovery: DiscoveryClient, into: list[ServiceSnapshot]) -> None:
    """Writes down every snapshot that a watcher sees."""
    write_down = into.append
    async for snapshot in discovery.watch(SERVICE):
        write_down(snapshot)


async def test_r16_a_thousand_watchers_of_one_service_are_one_query(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    async with watching(consul_simulator.settings) as discovery:
        seen: list[ServiceSnapshot] = []
        tasks = [asyncio.create_task(collect(discovery, seen)) for _ in range(1000)]
        await until(lambda: len(seen) == 1000)
        await consul_simulator.blocked()
        assert consul_simulator.waiting == 1
        assert sum(request.path == HEALTH for request in consul_simulator.requests) == 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: consul_simulator.waiting == 0)  # nobody is left: the watch ends after its linger


async def test_r06_an_answer_that_nobody_asked_for_lately_is_kept_through_an_outage(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    async with watching(consul_simulator.settings, options=replace(QUICK, linger=0.05)) as discovery:
        await discovery.read(SERVICE, timeout=PATIENCE)
        await consul_simulator.stop()
        await until(lambda: discovery.freshness(SERVICE) is None or is_stale(discovery))
        await asyncio.sleep(0.3)  # many times its linger
        snapshot = await discovery.read(SERVICE, timeout=0.1)
        assert ([one.id for one in snapshot.instances], snapshot.stale) == (["u1"], True)
        await consul_simulator.start()
        await until(lambda: discovery.freshness(SERVICE) is None)  # over, and still nobody asks: now it goes


async def test_r06_when_there_is_no_room_what_could_be_read_again_goes_first(consul_simulator: ConsulSimulator) -> None:
    for name in ("lost", "live", "third"):
        consul_simulator.register(name, name)
    with consul_simulator.fault(Fault(path="/v1/health/service/lost", times=0)) as fault:
        async with (
            ConsulClient(consul_simulator.settings, registry=CollectorRegistry()) as client,
            DiscoveryClient(
                ConsulDiscoverySource(client), options=replace(QUICK, linger=3600), registry=CollectorRegistry(), max_watches=2
            ) as discovery,
        ):
            await discovery.read("lost")
            await discovery.read("live")
            await consul_simulator.blocked(2)
            fault.times, fault.status, fault.body = None, 500, b"No cluster leader"
            consul_simulator.register("lost", "another")
            await until(lambda: discovery.peek("lost") is not None and discovery.snapshot("lost").stale)
            discovery.forget("lost")
            await discovery.read("third")
            assert discovery.peek("lost") is not None
            assert discovery.peek("live") is None


async def test_r16_a_restarted_fleet_spreads_its_first_reads() -> None:
    delays: list[float] = []
    options = WatchOptions(start_jitter=1)
    metrics = CollectorRegistry()
    for client in range(500):
        hub: WatchHub[tuple[int, ...]] = WatchHub(options, consul_metrics(metrics), Supervisor(registry=metrics), random=Random(client))
        lease = hub.lease("k", "k:k", never)
        delays.append(lease.query.delay)
        await hub.aclose()
    tenths = [sum(tenth / 10 <= delay < (tenth + 1) / 10 for delay in delays) for tenth in range(10)]
    assert sum(tenths) == 500
    assert min(tenths) >= 25


def never() -> Never:
    """A read that is never asked."""
    return Never()


class Never:
    """A read that never answers."""

    async def __call__(self, *, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[tuple[int, ...]]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_r17_a_storm_of_changes_costs_a_bounded_number_of_requests(consul_simulator: ConsulSimulator) -> None:
    options = WatchOptions(wait=5, interval=0.1, slowest=0.1, start_jitter=0)
    consul_simulator.register(SERVICE, "u1", port=1)
    async with watching(consul_simulator.settings, SERVICE, options=options) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        began, asked = time.monotonic(), len(consul_simulator.requests)
        for port in range(2, 1002):
            consul_simulator.register(SERVICE, "u1", port=port)
            await asyncio.sleep(0)
        await until(lambda: discovery.snapshot(SERVICE).instances[0].port == 1001)
        spent = time.monotonic() - began
    assert len(consul_simulator.requests) - asked <= options.burst + 1 + spent / options.interval


async def test_r18_connections_refused_by_the_limit_cost_no_data_and_come_back(consul_simulator: ConsulSimulator) -> None:
    services = [f"s{number}" for number in range(8)]
    for service in services:
        consul_simulator.register(service, f"{service}-1")
    async with watching(consul_simulator.settings, *services) as discovery:
        for service in services:
            await discovery.wait_for(service, timeout=PATIENCE)
        await consul_simulator.blocked(8)
        consul_simulator.connections = 3
        await consul_simulator.restart()
        await until(lambda: any(isinstance(f.error, RateLimited) for f in map(discovery.freshness, services) if f))
        assert all(ids(discovery, service) == [f"{service}-1"] for service in services)
        consul_simulator.connections = 100
        await until(lambda: not any(discovery.snapshot(service).stale for service in services))


async def test_watches_of_other_filters_are_other_questions(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    async with watching(consul_simulator.settings) as discovery:
        await discovery.read(SERVICE)
        await discovery.read(SERVICE, filter="Service.Port == 80")
    assert {request.query.get("filter") for request in consul_simulator.requests} == {None, "Service.Port == 80"}


async def test_more_watches_than_consul_accepts_are_refused_with_the_reason(consul_simulator: ConsulSimulator) -> None:
    async with (
        ConsulClient(consul_simulator.settings, registry=CollectorRegistry()) as client,
        DiscoveryClient(ConsulDiscoverySource(client), ["a", "b"], options=QUICK, max_watches=2, registry=CollectorRegistry()) as discovery,
    ):
        with pytest.raises(InvalidRequest, match="watches run already"):
            discovery.snapshot("c")
        discovery.forget("a")
        with pytest.raises(NotLoaded):
            discovery.snapshot("c")


def test_the_bucket_lets_a_burst_pass_and_then_one_per_interval() -> None:
    bucket = TokenBucket(DISCOVERY, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
    assert bucket.take(100.0) == 0.0


def test_lasting_change_slows_configuration_down_to_one_read_in_fifteen_seconds_and_quiet_brings_it_back() -> None:
    bucket, now, waits = TokenBucket(CONFIG, now=0.0), 0.0, list[float]()
    for _ in range(20):
        wait = bucket.take(now)
        waits.append(wait)
        now += wait
    assert waits[:3] == [0.0, 0.0, 1.0]
    assert waits[-1] == 15.0
    assert waits == sorted(waits)
    now += 60
    for _ in range(5):
        assert bucket.take(now) == 0.0
        now += 60
    assert [bucket.take(now) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_the_pause_after_failures_grows_to_its_limit_and_is_spread() -> None:
    pauses = [[backoff(failures, DISCOVERY, Random(seed)) for seed in range(50)] for failures in (1, 4, 1000)]
    assert all(0.25 <= pause <= 60 for row in pauses for pause in row)
    assert max(pauses[0]) <= 0.5 < max(pauses[1]) <= 4.0 < max(pauses[2])
    assert len(set(pauses[2])) == 50


def test_options_that_cannot_work_are_refused() -> None:
    wrongs: tuple[dict[str, float], ...] = (
        {"wait": 0},
        {"wait": 601},
        {"burst": 0},
        {"interval": 0},
        {"slowest": 0.1},
        {"backoff_min": 0},
        {"backoff_max": 0.1},
    )
    for wrong in wrongs:
        with pytest.raises(InvalidRequest):
            replace(DISCOVERY, **wrong)


async def test_a_fault_of_our_own_does_not_end_the_watch() -> None:
    turns = 0

    class Faulty:
        """Fails in a way that nobody expects, and then not."""

        async def __call__(self, *, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[tuple[int, ...]]:
            nonlocal turns
            turns += 1
            raise ZeroDivisionError

    hub: WatchHub[tuple[int, ...]] = WatchHub(QUICK, consul_metrics(CollectorRegistry()), Supervisor(registry=CollectorRegistry()))
    lease = hub.lease("k", "k:k", Faulty)
    await until(lambda: turns >= 3)
    assert isinstance(lease.query.freshness.error, BackendUnavailable)
    await hub.aclose()
