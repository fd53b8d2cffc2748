"""Whatever happens to Consul, what a subscriber saw keeps the watch's promises: a random story, a recorded history, and a checker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from prometheus_client import CollectorRegistry

from groundwork.consul.client import ConsulClient
from groundwork.consul.pacing import WatchOptions
from groundwork.consul.transport import TransportLimits
from groundwork.consul.watch import Freshness, Update
from groundwork.discovery.client import DiscoveryClient, ServiceSnapshot
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.discovery.models import Instance
from groundwork.testing.faults import Break, Fault
from groundwork.testing.simulator import ConsulSimulator
from groundwork.testing.state import Store, Tables
from groundwork.testing.wire import Service
from tests.app.consul.support import SERVICE, until

R = TypeVar("R")
State = frozenset[tuple[str, int]]  # ids with their ports

OPTIONS = WatchOptions(wait=0.2, interval=0.001, slowest=0.001, backoff_min=0.001, backoff_max=0.005, start_jitter=0)
LIMITS = TransportLimits(control=1, connect=0.2, slack=0.1, body=0.1)
IDS = st.sampled_from(("a", "b", "c"))
PORTS = st.integers(1, 4)


@dataclass
class History:
    """What was true at Consul, and what a subscriber was told."""

    truth: set[State] = field(default_factory=set[State])
    told: list[ServiceSnapshot] = field(default_factory=list[ServiceSnapshot])

    def check(self) -> None:
        """The promises."""
        for before, after in pairwise(self.told):
            assert after.generation > before.generation, "Ordered: generations only grow"
            assert after.index >= before.index or after.reset, "Ordered: an index falls only at a declared reset"
            assert after.instances != before.instances, "Unique: an unchanged value is not told twice"
        for snapshot in self.told:
            assert of(snapshot) in self.truth, "Atomic: never torn, never empty because of an error: each value was true once"


def of(snapshot: ServiceSnapshot) -> State:
    """The state that a snapshot shows."""
    return frozenset((instance.id, instance.port) for instance in snapshot.instances)


class WatchStory(RuleBasedStateMachine):
    """Changes, faults and restarts in any order."""

    simulator: ConsulSimulator
    client: ConsulClient
    discovery: DiscoveryClient
    subscriber: asyncio.Task[None]
    snapshot: tuple[Tables, int] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.history = History()

    def run(self, story: Coroutine[object, object, R]) -> R:
        """Do something in the loop; the watch advances only meanwhile."""
        return self.runner.run(story)

    @initialize()
    def begin(self) -> None:
        """A simulator, a client and a subscriber."""

        async def story() -> None:
            self.simulator = await ConsulSimulator().__aenter__()
            self.client = await ConsulClient(self.simulator.settings, limits=LIMITS, registry=CollectorRegistry()).__aenter__()
            source = ConsulDiscoverySource(self.client)
            self.discovery = await DiscoveryClient(source, [SERVICE], options=OPTIONS, registry=CollectorRegistry()).__aenter__()
            self.subscriber = asyncio.create_task(self.subscribe())
            self.first()

        self.run(story())

    def first(self) -> None:
        """A new Consul with one instance: there is never none, so that an empty answer is always false."""
        self.simulator.store.set_node("node-1", "127.0.0.1")
        self.simulator.store.set_service(Service("node-1", "a", SERVICE, "127.0.0.1", 1))
        self.remember()

    async def subscribe(self) -> None:
        """Writes down what it is told."""
        write_down = self.history.told.append
        async for snapshot in self.discovery.watch(SERVICE):
            write_down(snapshot)

    def remember(self) -> None:
        """This is true now."""
        self.history.truth.add(frozenset((row.id, row.port) for row in self.simulator.store.instances(SERVICE)[1]))

    async def change(self, *rows: Service, gone: tuple[str, ...] = ()) -> None:
        """One atomic change at Consul."""
        store = self.simulator.store
        store.set_node("node-1", "127.0.0.1")
        for row in rows:
            store.set_service(row)
        for instance in gone:
            store.delete_service("node-1", instance)
        self.remember()
        self.simulator.changed()
        await asyncio.sleep(0)

    @rule(instance=IDS, port=PORTS)
    def register(self, instance: str, port: int) -> None:
        self.run(self.change(Service("node-1", instance, SERVICE, "127.0.0.1", port)))

    @rule(instance=st.sampled_from(("b", "c")))
    def deregister(self, instance: str) -> None:
        self.run(self.change(gone=(instance,)))

    @rule(port=PORTS)
    def move_all_at_once(self, port: int) -> None:
        self.run(self.change(*(Service("node-1", instance, SERVICE, "127.0.0.1", port) for instance in "abc")))

    @rule(
        fault=st.sampled_from(
            (
                Fault.no_leader,
                Fault.denied,
                Fault.filtered,
                Fault.empty,
                lambda: Fault(breaks=Break.DROP),
                lambda: Fault(breaks=Break.TRUNCATE),
                lambda: Fault(breaks=Break.SILENT, blocking=True),
                lambda: Fault(status=200, body=b"[", headers={}),
                lambda: Fault(headers={"X-Consul-Index": "0"}),
                lambda: Fault(headers={"X-Consul-Index": None}),
                lambda: Fault(status=200, body=b"[]", headers={"X-Consul-KnownLeader": "false"}),
            )
        ),
        times=st.integers(1, 4),
    )
    def break_something(self, fault: Callable[[], Fault], times: int) -> None:
        broken = fault()
        broken.times = times
        self.simulator.faults.append(broken)

    @rule()
    def repair(self) -> None:
        self.simulator.faults.clear()

    @rule(wipe=st.booleans())
    def restart(self, wipe: bool) -> None:
        async def story() -> None:
            await self.simulator.stop()
            await asyncio.sleep(0.003)
            if wipe:
                self.simulator.store = Store()
                self.first()
            await self.simulator.start()

        self.run(story())

    @rule()
    def save(self) -> None:
        self.snapshot = self.simulator.store.save()

    @rule()
    def restore(self) -> None:
        """An older state comes back, which abandons the blocking queries."""
        if self.snapshot is not None:
            tables, index = self.snapshot
            self.simulator.store.restore(tables, index=index)
            self.remember()
            self.run(self.simulator.restart())

    @rule(turns=st.sampled_from((1, 5, 30)))
    def let_time_pass(self, turns: int) -> None:
        self.run(asyncio.sleep(turns / 1000))

    def teardown(self) -> None:
        """All faults end, the last state is seen, and the history is judged."""

        async def story() -> None:
            self.simulator.faults.clear()
            truth = frozenset((row.id, row.port) for row in self.simulator.store.instances(SERVICE)[1])
            try:
                await until(lambda: bool(self.history.told) and of(self.history.told[-1]) == truth and not self.discovery.snapshot(SERVICE).stale)
            finally:
                self.subscriber.cancel()
                await self.discovery.aclose()
                await self.client.__aexit__(None, None, None)
                await self.simulator.stop()

        try:
            if hasattr(self, "simulator"):
                self.run(story())
                self.history.check()
        finally:
            self.runner.close()


def play(examples: int, steps: int) -> None:
    """Plays random stories."""
    run_state_machine_as_test(
        WatchStory,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, suppress_health_check=(HealthCheck.too_slow,)
        ),
    )


def test_random_stories_keep_the_promises_of_a_watch() -> None:
    play(examples=25, steps=20)


@pytest.mark.soak
def test_many_long_random_stories_keep_the_promises_of_a_watch() -> None:
    play(examples=1000, steps=60)


@pytest.mark.parametrize(
    "promise", ["Ordered: generations", "Ordered: an index", "Unique", "Atomic"], ids=["generations", "index", "unique", "atomic"]
)
def test_the_checker_sees_each_broken_promise(promise: str) -> None:
    def snapshot(port: int, index: int, generation: int) -> ServiceSnapshot:
        return ServiceSnapshot(SERVICE, Update((Instance("a", SERVICE, "127.0.0.1", port),), index, generation), Freshness())

    told = {
        "Ordered: generations": [snapshot(1, 5, 2), snapshot(2, 6, 2)],
        "Ordered: an index": [snapshot(1, 5, 1), snapshot(2, 4, 2)],
        "Unique": [snapshot(1, 5, 1), snapshot(1, 6, 2)],
        "Atomic": [snapshot(3, 5, 1)],
    }[promise]
    with pytest.raises(AssertionError, match=promise):
        History({frozenset({("a", 1)}), frozenset({("a", 2)})}, told).check()
