"""The watch loop: an outage is not emptiness, indexes may fall, and nobody is asked more often than agreed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from groundwork.consul.client import ConsulClient
from groundwork.consul.errors import FilteredByAccessList, NoLeader
from groundwork.consul.pacing import WatchOptions
from groundwork.consul.transport import TransportLimits
from groundwork.discovery.client import DiscoveryClient, ServiceSnapshot
from groundwork.discovery.errors import NotLoaded
from groundwork.errors import DeadlineExceeded, PermissionDenied
from groundwork.testing.faults import Break, Fault
from groundwork.testing.simulator import Access, ConsulSimulator
from tests.app.consul.support import PATIENCE, QUICK, QUICK_LIMITS, SERVICE, ids, until, watching
from tests.app.processes import free_port

HEALTH = f"/v1/health/service/{SERVICE}"


async def collect(discovery: DiscoveryClient, into: list[ServiceSnapshot]) -> None:
    """Writes down every snapshot that a watcher sees."""
    write_down = into.append
    async for snapshot in discovery.watch(SERVICE):
        write_down(snapshot)


async def test_r01_a_consul_that_is_away_at_the_start_is_no_obstacle_and_is_caught_up_with() -> None:
    simulator = ConsulSimulator(port=free_port())
    async with watching(simulator.settings, SERVICE) as discovery:
        with pytest.raises(NotLoaded, match="nothing is known"):
            discovery.snapshot(SERVICE)
        with pytest.raises(DeadlineExceeded, match="is it running"):
            await discovery.read(SERVICE, timeout=0.1)
        simulator.register(SERVICE, "u1")
        async with simulator:
            assert [one.id for one in (await discovery.wait_for(SERVICE, timeout=PATIENCE)).instances] == ["u1"]


@pytest.mark.parametrize("wiped", [False, True], ids=["kept", "wiped"])
async def test_r03_nothing_is_missed_when_the_index_falls_with_a_restart(consul_simulator: ConsulSimulator, wiped: bool) -> None:
    for number in range(20):
        consul_simulator.register(SERVICE, f"old-{number}")
    seen: list[ServiceSnapshot] = []
    patient = replace(QUICK, wait=60)  # a watch that waits for the old index at the new server sees nothing until long after the test
    async with watching(consul_simulator.settings, SERVICE, options=patient) as discovery:
        task = asyncio.create_task(collect(discovery, seen))
        await discovery.wait_for(SERVICE, 20, timeout=PATIENCE)
        await consul_simulator.blocked()
        before = discovery.snapshot(SERVICE)
        await consul_simulator.stop()
        if wiped:
            consul_simulator.store = ConsulSimulator().store
        consul_simulator.register(SERVICE, "new")
        await consul_simulator.start()
        await until(lambda: "new" in ids(discovery))
        after = discovery.snapshot(SERVICE)
        task.cancel()
    assert len(after.instances) == (1 if wiped else 21)
    assert (after.index < before.index) == wiped
    assert after.reset == wiped


@pytest.mark.parametrize("index", ["0", None, "-3", "many", str(2**64 - 1), "9" * 40], ids=["zero", "absent", "negative", "word", "max", "huge"])
async def test_r04_an_index_that_makes_no_sense_neither_stops_nor_speeds_up_the_watch(consul_simulator: ConsulSimulator, index: str | None) -> None:
    consul_simulator.register(SERVICE, "u1")
    options = WatchOptions(wait=5, interval=0.05, slowest=0.05, backoff_min=0.05, backoff_max=0.1, start_jitter=0)
    with consul_simulator.fault(Fault(path=HEALTH, headers={"X-Consul-Index": index})) as fault:
        async with watching(consul_simulator.settings, SERVICE, options=options) as discovery:
            await discovery.wait_for(SERVICE, timeout=PATIENCE)
            began, asked = time.monotonic(), len(consul_simulator.requests)
            consul_simulator.register(SERVICE, "u2")
            fault.headers = {}  # Consul comes to its senses
            consul_simulator.changed()
            await until(lambda: ids(discovery) == ["u1", "u2"])
            allowed = options.burst + 3 + (time.monotonic() - began) / options.interval
            assert len(consul_simulator.requests) - asked <= allowed


async def test_r04_a_nonsense_index_does_not_make_a_hot_loop(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    options = WatchOptions(wait=5, interval=0.05, slowest=0.05, start_jitter=0)
    with consul_simulator.fault(Fault(path=HEALTH, headers={"X-Consul-Index": "0"})):
        began = time.monotonic()
        async with watching(consul_simulator.settings, SERVICE, options=options) as discovery:
            await consul_simulator.received(8, path=HEALTH)
            del discovery
        assert len(consul_simulator.requests) <= options.burst + 2 + (time.monotonic() - began) / options.interval


async def test_r06_without_a_leader_reads_are_served_and_say_how_old_they_are(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    seen: list[ServiceSnapshot] = []
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        task = asyncio.create_task(collect(discovery, seen))
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        await consul_simulator.blocked()
        snapshot = discovery.snapshot(SERVICE)
        assert (snapshot.age, snapshot.stale) == (0.0, False)
        with consul_simulator.fault(Fault.no_leader()) as fault:
            consul_simulator.deregister("u1")  # wakes the blocking query, whose next turn fails
            consul_simulator.register(SERVICE, "u1")
            await until(lambda: fault.hits >= 3 and snapshot.stale)
            first = snapshot.age
            await until(lambda: snapshot.age > first)
            assert ids(discovery) == ["u1"]
            freshness = discovery.freshness(SERVICE)
            assert freshness is not None
            assert isinstance(freshness.error, NoLeader)
        await until(lambda: not discovery.snapshot(SERVICE).stale)
        assert discovery.snapshot(SERVICE).age == 0.0
        task.cancel()
    assert all(one.instances for one in seen), "the outage was never seen as emptiness"


async def test_r07_an_empty_answer_around_an_election_is_not_believed(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    seen: list[ServiceSnapshot] = []
    registry = CollectorRegistry()
    async with watching(consul_simulator.settings, SERVICE, registry=registry) as discovery:
        task = asyncio.create_task(collect(discovery, seen))
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        await consul_simulator.blocked()
        with consul_simulator.fault(Fault.empty(path=HEALTH)) as fault:
            consul_simulator.set_status("u1", "warning")
            await until(lambda: fault.hits >= 3)
            assert ids(discovery) == ["u1"]
        task.cancel()
    assert all(one.instances for one in seen)
    assert any("consistent" in request.query for request in consul_simulator.requests)
    unconfirmed = registry.get_sample_value("watch_unconfirmed_total", {"query": "service"})
    assert unconfirmed
    assert unconfirmed >= 1


@pytest.mark.parametrize("headers", [{"X-Consul-KnownLeader": "false"}, {"X-Consul-LastContact": "60000"}], ids=["no-leader", "far-behind"])
async def test_r07_an_emptier_answer_of_a_server_cut_off_is_not_even_asked_about(
    consul_simulator: ConsulSimulator, headers: dict[str, str | None]
) -> None:
    consul_simulator.register(SERVICE, "u1")
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        await consul_simulator.blocked()
        fault = Fault(path=HEALTH, status=200, body=b"[]", headers=headers)
        with consul_simulator.fault(fault):
            consul_simulator.set_status("u1", "warning")
            await until(lambda: fault.hits >= 3)
            assert ids(discovery) == ["u1"]
            assert discovery.snapshot(SERVICE).stale
    assert not any("consistent" in request.query for request in consul_simulator.requests)


async def test_an_emptier_answer_that_is_true_counts_once_confirmed(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        await consul_simulator.blocked()
        consul_simulator.deregister("u1")
        await until(lambda: ids(discovery) == [])
        assert not discovery.snapshot(SERVICE).known
    assert [request for request in consul_simulator.requests if "consistent" in request.query]


async def test_r08_a_restored_snapshot_shows_as_a_reset(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    saved = consul_simulator.store.save()
    for number in range(2, 6):
        consul_simulator.register(SERVICE, f"u{number}")
    seen: list[ServiceSnapshot] = []
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        task = asyncio.create_task(collect(discovery, seen))
        await discovery.wait_for(SERVICE, 5, timeout=PATIENCE)
        await consul_simulator.blocked()
        consul_simulator.store.restore(saved[0], index=saved[1])
        await consul_simulator.restart()  # a restore abandons all blocking queries
        await until(lambda: [one.id for one in seen[-1].instances] == ["u1"])
        task.cancel()
    falls = [(before, after) for before, after in pairwise(seen) if after.index < before.index]
    assert all(after.reset for _, after in falls)
    assert seen[-1].reset


async def test_r09_an_idle_watch_turns_without_error_or_event(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    registry = CollectorRegistry()
    idle = WatchOptions(wait=0.02, interval=0.001, slowest=0.001, start_jitter=0)
    seen: list[ServiceSnapshot] = []
    async with watching(consul_simulator.settings, SERVICE, options=idle, registry=registry) as discovery:
        task = asyncio.create_task(collect(discovery, seen))
        await consul_simulator.received(20, path=HEALTH)
        task.cancel()
        assert not discovery.snapshot(SERVICE).stale
    assert len(seen) == 1
    assert registry.get_sample_value("watch_errors_total", {"query": "service", "error": "DeadlineExceeded"}) is None


async def test_r10_a_connection_that_went_silent_is_noticed_after_the_longest_regular_wait(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    options = WatchOptions(wait=0.1, interval=0.005, slowest=0.005, backoff_min=0.005, backoff_max=0.02, start_jitter=0)
    limits = TransportLimits(control=1, slack=0.1)
    async with watching(consul_simulator.settings, SERVICE, options=options, limits=limits) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        with consul_simulator.fault(Fault(path=HEALTH, breaks=Break.SILENT, blocking=True)):
            await until(lambda: discovery.snapshot(SERVICE).stale)
            freshness = discovery.freshness(SERVICE)
            assert freshness is not None
            assert isinstance(freshness.error, DeadlineExceeded)
            assert ids(discovery) == ["u1"]
            assert discovery.snapshot(SERVICE).age >= 0.1 * 17 / 16 + 0.1, "silence is as old as its beginning"
        consul_simulator.register(SERVICE, "u2")
        await until(lambda: ids(discovery) == ["u1", "u2"])


@pytest.mark.parametrize("status", [429, 503])
async def test_r11_retry_after_is_kept(consul_simulator: ConsulSimulator, status: int) -> None:
    consul_simulator.register(SERVICE, "u1")
    options = WatchOptions(wait=5, interval=0.001, slowest=0.001, backoff_min=0.001, backoff_max=5, start_jitter=0)
    with consul_simulator.fault(Fault.overloaded(retry_after=1, status=status, times=1)):
        began = time.monotonic()
        async with watching(consul_simulator.settings, SERVICE, options=options) as discovery:
            await discovery.wait_for(SERVICE, timeout=PATIENCE)
    assert time.monotonic() - began >= 1.0


async def test_r21_the_wall_clock_has_no_part_in_it(consul_simulator: ConsulSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    consul_simulator.register(SERVICE, "u1")
    true = time.time
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        for number, jump in enumerate((86_400, -86_400), start=2):
            monkeypatch.setattr(time, "time", lambda jump=jump: true() + jump)
            consul_simulator.register(SERVICE, f"u{number}")
            await until(lambda number=number: len(ids(discovery)) == number)
            assert 0 <= discovery.snapshot(SERVICE).age < 3600


async def test_r23_a_revoked_token_keeps_the_state_and_a_restored_one_continues(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("good")
    consul_simulator.tokens = {"good": Access()}
    consul_simulator.register(SERVICE, "u1")
    settings = consul_simulator.settings.model_copy(update={"token_file": file})
    async with watching(settings, SERVICE) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        await consul_simulator.blocked()
        consul_simulator.tokens = {"other": Access()}
        consul_simulator.set_status("u1", "warning")
        await until(lambda: discovery.snapshot(SERVICE).stale)
        freshness = discovery.freshness(SERVICE)
        assert freshness is not None
        assert isinstance(freshness.error, PermissionDenied)
        assert ids(discovery) == ["u1"]
        consul_simulator.tokens = {"good": Access()}
        consul_simulator.register(SERVICE, "u2")
        await until(lambda: ids(discovery) == ["u1", "u2"])


async def test_r23_a_refused_first_read_is_said_at_once(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.tokens = {"other": Access()}
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        with pytest.raises(PermissionDenied):
            await discovery.read(SERVICE, timeout=PATIENCE)


async def test_r24_an_answer_filtered_by_the_access_list_changes_nothing(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    consul_simulator.tokens = {"": Access()}
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        await consul_simulator.blocked()
        consul_simulator.tokens[""].service_read = ("something-else",)
        consul_simulator.set_status("u1", "warning")
        await until(lambda: discovery.snapshot(SERVICE).stale)
        freshness = discovery.freshness(SERVICE)
        assert freshness is not None
        assert isinstance(freshness.error, FilteredByAccessList)
        assert ids(discovery) == ["u1"]


@pytest.mark.parametrize("state", ["waiting", "failing", "silent", "slow"])
async def test_r30_a_cancelled_watch_leaves_no_task_and_no_socket(consul_simulator: ConsulSimulator, state: str) -> None:
    consul_simulator.register(SERVICE, "u1")
    faults = {
        "waiting": Fault(times=0),
        "failing": Fault.no_leader(),
        "silent": Fault(breaks=Break.SILENT),
        "slow": Fault(breaks=Break.SLOW),
    }
    before = asyncio.all_tasks()
    with consul_simulator.fault(faults[state]):
        async with watching(consul_simulator.settings, SERVICE, limits=TransportLimits()):
            await consul_simulator.received(1 if state != "waiting" else 2, path=HEALTH)
            during = asyncio.all_tasks() - before
        assert during
        await until(lambda: consul_simulator.open_connections == 0)
    assert {task for task in asyncio.all_tasks() - before if "watch" in task.get_name()} == set()


@pytest.mark.parametrize("steps", [*range(20), 30, 50, 80])
async def test_r30_cancelling_a_call_at_any_step_leaks_nothing(consul_simulator: ConsulSimulator, steps: int) -> None:
    consul_simulator.put("a", b"1")
    async with ConsulClient(consul_simulator.settings, limits=QUICK_LIMITS, registry=CollectorRegistry()) as client:
        index = (await client.kv_list("a")).index
        task = asyncio.create_task(client.kv_list("a", index=index, wait=30))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: consul_simulator.waiting == 0)
        assert await client.kv_get("a"), "the client is as good as before"


async def test_an_unchanged_value_is_no_event(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.register(SERVICE, "u1")
    seen: list[ServiceSnapshot] = []
    async with watching(consul_simulator.settings, SERVICE) as discovery:
        task = asyncio.create_task(collect(discovery, seen))
        await discovery.wait_for(SERVICE, timeout=PATIENCE)
        for turn in range(2, 6):
            await consul_simulator.blocked()
            asked = len(consul_simulator.requests)
            consul_simulator.store.index += turn
            consul_simulator.store.tables.service_index[SERVICE] = consul_simulator.store.index  # a change of something else moves the index
            consul_simulator.changed()
            await consul_simulator.received(asked + 1)
        task.cancel()
    assert len(seen) == 1
