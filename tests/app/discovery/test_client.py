"""Discovery from memory: what is read, how it is decoded, who is told."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from prometheus_client import CollectorRegistry

from groundwork.backends.memory import MemoryDiscovery, MemoryStore
from groundwork.consul.errors import BadAnswer
from groundwork.discovery.client import DiscoveryClient, ServiceSnapshot
from groundwork.discovery.consul_source import decode_instances
from groundwork.discovery.errors import NotLoaded
from groundwork.discovery.models import Instance, Status
from groundwork.errors import DeadlineExceeded
from groundwork.testing.simulator import ConsulSimulator
from groundwork.testing.wire import Service
from tests.app.consul.support import PATIENCE, QUICK, SERVICE, ids, until, watching


def entries(count: int, *, unique_meta: bool = False) -> bytearray:
    """A health answer as Consul writes it, about 1.4 kB an instance."""
    simulator = ConsulSimulator()
    for number in range(count):
        meta = {"version": "2.4.1", "zone": f"z{number % 3}"} | ({"pod": f"pod-{number}"} if unique_meta else {})
        simulator.register(
            SERVICE, f"{SERVICE}-{number:05}", address=f"10.1.{number // 250}.{number % 250}", port=8000, tags=("v2", "http"), meta=meta
        )
    rows = simulator.store.instances(SERVICE)[1]
    checks = {check.service_id: check for check in simulator.store.tables.checks.values()}
    simulator.store.checks = lambda row: [checks[row.id]]  # the plain look-up is quadratic
    return bytearray(json.dumps([simulator.entry(row) for row in rows]).encode())


async def test_an_instance_has_what_a_caller_needs(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1", address="10.0.0.7", port=8000, tags=("v2",), meta={"zone": "z1", "scheme": "https"}, weight=7)
    async with watching(consul_simulator.settings) as discovery:
        (instance,) = (await discovery.read(SERVICE)).instances
    assert (instance.id, instance.service, instance.address, instance.port) == ("u1", SERVICE, "10.0.0.7", 8000)
    assert (instance.tags, instance.metadata, instance.zone, instance.weight) == (("v2",), {"zone": "z1", "scheme": "https"}, "z1", 7)
    assert instance.url("/api/v1/documents") == "https://10.0.0.7:8000/api/v1/documents"


def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    assert Instance("a", "s", "fd00::1", 80).url("x") == "http://[fd00::1]:80/x"
    assert Instance("a", "s", "host", 80).url() == "http://host:80/"


async def test_an_instance_cannot_be_changed() -> None:
    instance = Instance("a", "s", "10.0.0.1", 80)
    with pytest.raises(AttributeError):
        instance.port = 81  # pyright: ignore[reportAttributeAccessIssue] that is the point
    assert not hasattr(instance, "__dict__")


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([], Status.PASSING),
        ([("c", "passing"), ("d", "warning")], Status.WARNING),
        ([("c", "warning"), ("d", "critical")], Status.CRITICAL),
        ([("c", "passing"), ("_node_maintenance", "critical")], Status.MAINTENANCE),
        ([("_service_maintenance:u1", "critical"), ("c", "passing")], Status.MAINTENANCE),
        ([("c", "a-word-of-the-future")], Status.CRITICAL),
    ],
)
async def test_the_status_is_that_of_the_worst_check(checks: list[tuple[str, str]], status: Status) -> None:
    rows = [{"CheckID": check, "Status": state} for check, state in checks]
    entry = {"Node": {"Node": "n", "Address": "10.0.0.9"}, "Service": {"ID": "u1", "Service": SERVICE, "Port": 1}, "Checks": rows}
    (instance,) = await decode_instances(bytearray(json.dumps([entry]).encode()))
    assert instance.status is status


async def test_nulls_are_empty_and_a_missing_address_is_the_nodes() -> None:
    entry = {
        "Node": {"Node": "n", "Address": "10.0.0.9", "Meta": None},
        "Service": {"ID": "u1", "Service": SERVICE, "Address": "", "Port": 1, "Tags": None, "Meta": None, "Weights": None},
        "Checks": None,
    }
    (instance,) = await decode_instances(bytearray(json.dumps([entry]).encode()))
    assert (instance.address, instance.tags, instance.meta) == ("10.0.0.9", (), ())
    assert await decode_instances(bytearray(b"null")) == ()


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"Node": 3}]', b'[{"Service": {}}]', b"\xff", b'["x"'])
async def test_an_answer_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        await decode_instances(bytearray(body))


async def test_r13_ten_thousand_instances_do_not_hold_up_the_loop() -> None:
    body = entries(10_000)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    found = await decode_instances(body)
    task.cancel()
    assert len(found) == 10_000
    assert turns >= 10_000 / 250 - 1, "other tasks had their turns in between"


async def test_r13_a_catalog_of_ten_thousand_services_is_listed(consul_simulator: ConsulSimulator) -> None:
    for number in range(10_000):
        consul_simulator.store.tables.services["node-1", f"s{number}"] = Service("node-1", f"s{number}", f"service-{number}")
    async with watching(consul_simulator.settings) as discovery:
        assert len(await discovery.services()) == 10_001


def retained_bytes(unique_meta: bool) -> float:
    """What one of 2,000 instances keeps of the memory."""
    body = entries(2_000, unique_meta=unique_meta)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    found = asyncio.run(decode_instances(body))
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / len(found)


@pytest.mark.parametrize(("unique_meta", "limit"), [(False, 400), (True, 600)], ids=["shared metadata", "metadata of its own"])
def test_an_instance_costs_few_bytes(unique_meta: bool, limit: int) -> None:
    # In a process of its own: the interpreter's table of interned strings, which all tests share, grows in leaps.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        assert fresh.submit(retained_bytes, unique_meta).result(timeout=120) <= limit


async def test_unchanged_instances_stay_the_same_objects() -> None:
    first = await decode_instances(entries(10))
    second = await decode_instances(entries(11), first)
    assert all(any(one is other for other in second) for one in first)


async def test_a_snapshot_of_what_nobody_asked_about_yet_says_so_and_starts_the_watch(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    async with watching(consul_simulator.settings) as discovery:
        with pytest.raises(NotLoaded, match="wait_for"):
            discovery.snapshot(SERVICE)
        await until(lambda: ids(discovery) == ["u1"])


async def test_unknown_and_none_healthy_are_different_answers(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1", status="critical")
    async with watching(consul_simulator.settings) as discovery:
        sick, unknown = await discovery.read(SERVICE), await discovery.read("nobody")
    assert (sick.known, len(sick.instances), sick.serving) == (True, 1, ())
    assert (unknown.known, unknown.instances) == (False, ())


async def test_wait_for_returns_when_enough_serve_and_says_what_it_saw_otherwise(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    consul_simulator.register(SERVICE, "u2", status="critical")
    async with watching(consul_simulator.settings) as discovery:
        with pytest.raises(DeadlineExceeded, match="1 of 2 serving"):
            await discovery.wait_for(SERVICE, 2, timeout=0.1)
        waiting = asyncio.create_task(discovery.wait_for(SERVICE, 2, timeout=PATIENCE))
        await consul_simulator.blocked()
        consul_simulator.set_status("u2", "passing")
        assert len((await waiting).serving) == 2


async def test_r14_a_subscriber_that_hangs_holds_up_nobody_and_gets_the_latest(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1", port=1)
    async with watching(consul_simulator.settings) as discovery:
        gate = asyncio.Event()
        slow: list[int] = []
        quick = [0] * 1000

        async def hang() -> None:
            async for snapshot in discovery.watch(SERVICE):
                slow.append(snapshot.instances[0].port)
                await gate.wait()

        async def follow(number: int) -> None:
            async for snapshot in discovery.watch(SERVICE):
                quick[number] = snapshot.instances[0].port

        tasks = [asyncio.create_task(hang()), *(asyncio.create_task(follow(number)) for number in range(1000))]
        await until(lambda: slow == [1] and set(quick) == {1})
        for port in range(2, 30):
            consul_simulator.register(SERVICE, "u1", port=port)
            await until(lambda port=port: set(quick) == {port})
        assert slow == [1]
        gate.set()
        await until(lambda: slow == [1, 29])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_closing_the_client_ends_its_iterations(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    seen: list[ServiceSnapshot] = []

    async def follow(discovery: DiscoveryClient) -> None:
        write_down = seen.append
        async for snapshot in discovery.watch(SERVICE):
            write_down(snapshot)

    async with watching(consul_simulator.settings) as discovery:
        task = asyncio.create_task(follow(discovery))
        await until(lambda: len(seen) == 1)
    async with asyncio.timeout(PATIENCE):
        await task


async def test_the_age_of_each_snapshot_is_measured(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    registry = CollectorRegistry()
    async with watching(consul_simulator.settings, SERVICE, registry=registry) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        assert registry.get_sample_value("snapshot_age_seconds", {"service": SERVICE}) == 0.0
        await consul_simulator.stop()
        await until(lambda: (registry.get_sample_value("snapshot_age_seconds", {"service": SERVICE}) or 0) > 0)
        assert discovery.snapshot(SERVICE).instances


async def test_the_embedded_back_end_feeds_the_same_client() -> None:
    async with DiscoveryClient(MemoryDiscovery(MemoryStore()), options=QUICK, registry=CollectorRegistry()) as discovery:
        assert not (await discovery.read(SERVICE)).known
        assert not discovery.snapshot(SERVICE).stale
