"""What lies among the registry's records and is none, and more records than one answer holds: leases end all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from groundwork.auth import ANONYMOUS
from groundwork.backends.base import ServiceQuery
from groundwork.backends.consul import NODE, ConsulRegistry
from groundwork.backends.consul_records import RECORDS
from groundwork.consul.client import ConsulClient
from groundwork.consul.transport import TransportLimits
from groundwork.consul.txn import CheckSet, KvSet, NodeSet, ServiceSet
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.discovery.models import Status
from groundwork.errors import BackendRefused, UnreadableRecord
from groundwork.metrics import Metrics
from groundwork.registry.models import Record
from groundwork.registry.service import ServiceRegistry
from groundwork.testing.faults import Fault
from groundwork.testing.simulator import ConsulSimulator
from tests.app.registry.backends import Clock, leads, wish


@dataclass
class World:
    consul: ConsulSimulator
    client: ConsulClient
    records: ConsulRegistry
    registry: ServiceRegistry
    metrics: Metrics
    clock: Clock

    async def lapses(self, service: str, service_id: str) -> bool:
        """Whether the lease of a registered instance ends when nobody renews it."""
        await self.registry.sweep()
        self.clock.now += 31
        await self.registry.sweep()
        stored = await self.records.get(service, service_id)
        return stored is not None and stored.record.lapsed

    def unreadable(self) -> float | None:
        return self.metrics.registry.get_sample_value("records_unreadable")


@pytest_asyncio.fixture
async def world() -> AsyncGenerator[World]:
    async with ConsulSimulator() as consul, ConsulClient(consul.settings, limits=TransportLimits(max_body=280 * 1024)) as client:
        records, metrics, clock = ConsulRegistry(client, holder="one"), Metrics(), Clock()
        assert await leads(records)
        yield World(consul, client, records, ServiceRegistry(records, metrics=metrics, clock=clock), metrics, clock)
        await records.close()


FOREIGN = {
    "a text": b"hello",
    "nothing": b"",
    "not UTF-8": b"\xff\xfe",
    "another shape": b'{"registration": 7}',
    "another record": json.dumps({"owner": "x", "registered_at": "", "renewed_at": "", "registration": wish("a", "b").model_dump()}).encode(),
    "a state of a later version": wish().model_dump_json().encode(),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("key", ["user-service/strange", "alone", "a/b/c"])
async def test_r53_what_is_no_record_is_counted_and_every_other_lease_ends(world: World, kind: str, key: str) -> None:
    world.consul.put(RECORDS + key, FOREIGN[kind])
    await world.registry.register(wish("user-service", "well"), ANONYMOUS)
    assert await world.lapses("user-service", "well")
    assert world.unreadable() == 1
    page = await world.registry.page()
    assert [one.record.service_id for one in page.stored] == ["well"]
    assert world.consul.store.tables.keys[RECORDS + key].value == FOREIGN[kind]


async def test_r53_a_folder_is_nothing_to_count(world: World) -> None:
    world.consul.put(RECORDS, b"")
    world.consul.put(f"{RECORDS}user-service/", b"")
    await world.registry.register(wish("user-service", "well"), ANONYMOUS)
    assert await world.lapses("user-service", "well")
    assert world.unreadable() == 0
    assert [one.record.service_id for one in (await world.registry.page()).stored] == ["well"]


async def test_r53_a_record_of_a_later_version_is_read_without_what_is_new(world: World) -> None:
    await world.registry.register(wish("user-service", "new"), ANONYMOUS)
    key = f"{RECORDS}user-service/new"
    value = json.loads(world.consul.store.tables.keys[key].value)
    value["colour"] = value["registration"]["colour"] = value["registration"]["check"]["colour"] = "blue"
    world.consul.put(key, json.dumps(value))
    assert await world.lapses("user-service", "new")
    assert (await world.registry.heartbeat("new", Status.PASSING, ANONYMOUS)).record.status is Status.PASSING
    assert world.unreadable() == 0


async def test_r53_an_unreadable_record_is_the_platforms_fault_for_its_own_id_alone(world: World) -> None:
    world.consul.put(f"{RECORDS}user-service/strange", b"hello")
    with pytest.raises(UnreadableRecord):
        await world.registry.register(wish("user-service", "strange"), ANONYMOUS)
    assert (await world.registry.register(wish("user-service", "well"), ANONYMOUS)).created


async def test_r52_more_records_than_one_answer_holds_end_their_leases_all_the_same(world: World) -> None:
    big = {f"key-{number}": "x" * 500 for number in range(10)}
    names = [f"id-{number:03}" for number in range(50)]
    for name in names:
        await world.registry.register(wish("big", name).model_copy(update={"metadata": big}), ANONYMOUS)
    # All of them together are 370 kB, more than this client takes in one answer.
    assert await world.lapses("big", names[-1])
    assert len((await world.records.list()).stored) == len(names)


async def test_r52_a_record_that_goes_away_between_two_reads_is_left_out(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.registry.register(wish("s", name), ANONYMOUS)
    names = ["s/a", "s/b", "s/c", "s/never"]
    await world.registry.deregister("b", ANONYMOUS)
    assert [entry.key for entry in await world.records._records.entries(names)] == [f"{RECORDS}s/a", f"{RECORDS}s/c"]  # pyright: ignore[reportPrivateUsage]


async def test_r52_one_record_that_cannot_be_written_keeps_no_other_lease_from_ending(world: World) -> None:
    for name in ("a", "b"):
        await world.registry.register(wish("s", name), ANONYMOUS)
    await world.registry.sweep()
    world.clock.now += 31
    with world.consul.fault(Fault(path="/v1/txn", status=400, body=b"invalid tag", times=1)):
        await world.registry.sweep()
    stored = (await world.records.list()).stored
    assert [one.record.lapsed for one in stored] == [False, True]


async def test_what_consul_calls_invalid_is_not_the_callers_mistake(world: World) -> None:
    with world.consul.fault(Fault(path="/v1/txn", status=400, body=b"invalid tag")), pytest.raises(BackendRefused):
        await world.registry.register(wish(), ANONYMOUS)


async def test_records_of_the_version_before_move_to_their_service_with_their_place_in_the_catalog(world: World) -> None:
    record = Record(registration=wish("user-service", "old"), owner="anonymous", registered_at="", renewed_at="")
    await world.client.txn(
        [
            KvSet(f"{RECORDS}old", record.model_dump_json().encode()),
            NodeSet(NODE, "127.0.0.1"),
            ServiceSet(NODE, "old", "user-service", "10.1.2.3", 8000),
            CheckSet(NODE, "lease:old", "lease", "passing", "old"),
        ]
    )
    await world.registry.sweep()
    assert sorted(world.consul.store.tables.keys) == [f"{RECORDS}user-service/old", "registry/sweeper"]
    assert await world.lapses("user-service", "old")
    found = (await ConsulDiscoverySource(world.client).service(ServiceQuery("user-service"))()).value
    assert [(one.id, one.status) for one in found] == [("old", Status.CRITICAL)]


async def test_r53_a_record_of_the_version_before_whose_new_place_is_taken_by_something_else_stays(world: World) -> None:
    record = Record(registration=wish("user-service", "old"), owner="anonymous", registered_at="", renewed_at="")
    world.consul.put(f"{RECORDS}old", record.model_dump_json())
    world.consul.put(f"{RECORDS}user-service/old", b"hello")
    await world.registry.register(wish("user-service", "well"), ANONYMOUS)
    assert await world.lapses("user-service", "well")
    assert world.unreadable() == 2


async def test_a_sweep_under_way_does_not_take_back_the_lock_that_was_given_up(world: World) -> None:
    await world.records.close()
    assert not await world.records.lead()
    await asyncio.sleep(0)
    assert world.consul.store.tables.keys["registry/sweeper"].session == ""
