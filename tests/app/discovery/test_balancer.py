"""Who is picked, how evenly, and what happens while instances fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from groundwork.consul.watch import Freshness, Update
from groundwork.discovery import balancer as module
from groundwork.discovery.balancer import Ejection, LoadBalancer, Panic
from groundwork.discovery.client import ServiceSnapshot
from groundwork.discovery.models import Instance, Status
from groundwork.discovery.strategies import STRATEGIES
from groundwork.errors import InvalidRequest, NoInstances, ServiceUnknown

SERVICE = "document-service"


class Fixed:
    """Snapshots that a test sets."""

    def __init__(self, *instances: Instance) -> None:
        self.generation = 0
        self.set(*instances)

    def set(self, *instances: Instance) -> None:
        """This is what is registered now."""
        self.generation += 1
        freshness = Freshness()
        freshness.good()
        self.now = ServiceSnapshot(SERVICE, Update(tuple(instances), self.generation, self.generation), freshness)

    def snapshot(self, service: str) -> ServiceSnapshot:
        """What is known now."""
        assert service == SERVICE
        return self.now


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The balancer's clock."""
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def some(count: int, *, status: Status = Status.PASSING, zone: str = "", weight: int = 1, first: int = 0) -> tuple[Instance, ...]:
    """Instances with ids i000, i001..."""
    meta = (("zone", zone),) if zone else ()
    return tuple(Instance(f"i{number:03}", SERVICE, "10.0.0.1", 8000 + number, status, (), meta, weight) for number in range(first, first + count))


def balancer(
    source: Fixed, strategy: str = "p2c", *, zone: str = "", ejection: Ejection | None = None, panic: Panic | None = None, seed: int = 1
) -> LoadBalancer:
    """A balancer with a registry and a seed of its own."""
    return LoadBalancer(
        source,
        SERVICE,
        strategy,
        zone=zone,
        ejection=ejection or Ejection(),
        panic=panic or Panic(),
        random=Random(seed),
        registry=CollectorRegistry(),
    )


def counted(lb: LoadBalancer, picks: int) -> Counter[str]:
    """How often each was picked."""
    return Counter(lb.pick(f"key-{number}").id for number in range(picks))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_spreads_over_all_instances(name: str) -> None:
    counts = counted(balancer(Fixed(*some(5)), name), 2000)
    assert len(counts) == 5
    assert min(counts.values()) > 250


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_follows_the_snapshot_and_works_with_one_instance(name: str) -> None:
    source = Fixed(*some(5))
    lb = balancer(source, name)
    counted(lb, 20)
    source.set(*some(1, first=7))
    assert set(counted(lb, 20)) == {"i007"}


@pytest.mark.parametrize("name", ["", "P2C", "fastest", "least_conections"])
def test_an_unknown_strategy_is_refused_when_the_balancer_is_made(name: str) -> None:
    with pytest.raises(InvalidRequest, match="use one of round_robin"):
        balancer(Fixed(*some(1)), name)


def test_round_robin_takes_turns_and_starts_anywhere() -> None:
    picked = [balancer(Fixed(*some(4)), "round_robin", seed=seed).pick().id for seed in range(40)]
    assert len(set(picked)) == 4
    lb = balancer(Fixed(*some(4)), "round_robin")
    turn = [lb.pick().id for _ in range(4)]
    assert sorted(turn) == ["i000", "i001", "i002", "i003"]
    assert [lb.pick().id for _ in range(4)] == turn


def test_weights_are_kept_exactly_and_evenly_interleaved() -> None:
    source = Fixed(*some(1, weight=5), *some(1, weight=3, first=1), *some(1, weight=2, first=2), *some(1, weight=0, first=3))
    lb = balancer(source, "weighted_round_robin")
    counted(lb, 20)
    picked = [lb.pick().id for _ in range(1000)]
    assert Counter(picked) == {"i000": 500, "i001": 300, "i002": 200}
    assert not any(picked[at : at + 4] == ["i000"] * 4 for at in range(len(picked))), "no bursts"


def test_a_warning_instance_has_its_other_weight() -> None:
    warning = Instance("i001", SERVICE, "10.0.0.1", 1, Status.WARNING, (), (), 10, 1)
    lb = balancer(Fixed(Instance("i000", SERVICE, "10.0.0.1", 1, Status.PASSING, (), (), 10, 1), warning), "weighted_round_robin")
    assert counted(lb, 1100)["i001"] == pytest.approx(100, abs=3)


async def test_least_connections_counts_requests_in_flight() -> None:
    lb = balancer(Fixed(*some(3)), "least_connections")
    async with lb.acquire() as one, lb.acquire() as two, lb.acquire() as three:
        assert len({one.id, two.id, three.id}) == 3
        async with lb.acquire():
            assert sorted(lb.in_flight(instance.id) for instance in (one, two, three)) == [1, 1, 2]
        assert [lb.in_flight(instance.id) for instance in (one, two, three)] == [1, 1, 1]
    assert lb.in_flight(one.id) == 0


async def test_p2c_avoids_the_busy_one() -> None:
    lb = balancer(Fixed(*some(2)))
    async with lb.acquire() as busy:
        assert {lb.pick().id for _ in range(50)} == {"i000", "i001"} - {busy.id}


@pytest.mark.parametrize("outcome", [None, ValueError, OSError, asyncio.CancelledError])
async def test_a_request_is_no_longer_in_flight_however_it_ends(outcome: type[BaseException] | None) -> None:
    lb = balancer(Fixed(*some(1)))
    try:
        async with lb.acquire() as instance:
            assert lb.in_flight(instance.id) == 1
            if outcome is not None:
                raise outcome
    except (ValueError, OSError, asyncio.CancelledError):
        pass
    assert lb.in_flight("i000") == 0


def test_the_same_key_goes_to_the_same_instance_in_every_process_and_few_keys_move() -> None:
    keys = [f"user-{number}" for number in range(1000)]
    source = Fixed(*some(10))
    lb, other = balancer(source, "consistent_hash", seed=1), balancer(source, "consistent_hash", seed=2)
    before = {key: lb.pick(key).id for key in keys}
    assert {key: other.pick(key).id for key in keys} == before
    source.set(*[instance for instance in some(10) if instance.id != "i004"])
    after = {key: lb.pick(key).id for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == "i004"}


def test_a_zone_is_preferred_while_enough_of_it_is_healthy() -> None:
    near, far = some(2, zone="a"), some(2, zone="b", first=2)
    source = Fixed(*near, *far)
    lb = balancer(source, zone="a")
    assert set(counted(lb, 100)) == {"i000", "i001"}
    source.set(*some(2, zone="a", status=Status.CRITICAL), *far)
    assert set(counted(lb, 100)) == {"i002", "i003"}
    assert set(counted(balancer(Fixed(*near, *far), zone="elsewhere"), 200)) == {"i000", "i001", "i002", "i003"}


def test_sick_instances_and_those_in_maintenance_are_not_picked() -> None:
    lb = balancer(Fixed(*some(4), *some(1, status=Status.CRITICAL, first=4), *some(5, status=Status.MAINTENANCE, first=5)))
    assert set(counted(lb, 200)) == {"i000", "i001", "i002", "i003"}
    assert lb.panics == 0, "maintenance is no sign of trouble"


def test_r20_below_the_panic_threshold_all_are_used_and_it_is_counted() -> None:
    source = Fixed(*some(4), *some(6, status=Status.CRITICAL, first=4), *some(1, status=Status.MAINTENANCE, first=10))
    lb = balancer(source)
    assert set(counted(lb, 500)) == {f"i{number:03}" for number in range(10)}
    assert lb.panics == 500
    source.set(*some(5), *some(5, status=Status.CRITICAL, first=5))
    assert set(counted(lb, 200)) == {f"i{number:03}" for number in range(5)}
    assert lb.panics == 500


def test_r20_a_closed_panic_refuses_and_recovers() -> None:
    source = Fixed(*some(4), *some(6, status=Status.CRITICAL, first=4))
    lb = balancer(source, panic=Panic(mode="closed"))
    for _ in range(2):
        with pytest.raises(NoInstances, match="4 of 10"):
            lb.pick()
    source.set(*some(10))
    assert lb.pick()


def test_nothing_registered_and_nothing_usable_are_different_errors() -> None:
    with pytest.raises(ServiceUnknown, match="is its name right"):
        balancer(Fixed()).pick()
    with pytest.raises(NoInstances):
        balancer(Fixed(*some(2, status=Status.MAINTENANCE))).pick()


async def test_an_instance_that_fails_in_a_row_is_left_out_and_comes_back(clock: Clock) -> None:
    lb = balancer(Fixed(*some(3)), ejection=Ejection(failures=3, seconds=30))
    bad = lb.pick()
    for _ in range(2):
        lb.report(bad, failed=True)
    lb.report(bad, failed=False)  # the row is broken
    for _ in range(2):
        lb.report(bad, failed=True)
    assert bad.id in counted(lb, 100)
    lb.report(bad, failed=True)
    assert set(counted(lb, 100)) == {"i000", "i001", "i002"} - {bad.id}
    assert lb.ejected == 1
    clock.now += 31
    assert bad.id in counted(lb, 100)
    assert lb.ejected == 0


def test_r19_a_flapping_instance_is_out_again_at_its_first_failure_and_for_longer(clock: Clock) -> None:
    lb = balancer(Fixed(*some(3)), ejection=Ejection(failures=3, seconds=10))
    bad = some(1)[0]
    lb.pick()
    for _ in range(3):
        lb.report(bad, failed=True)
    clock.now += 10.1
    assert "i000" in counted(lb, 100)
    lb.report(bad, failed=True)
    assert "i000" not in counted(lb, 100)
    clock.now += 10.1
    assert "i000" not in counted(lb, 100), "twice as long the second time"
    clock.now += 10.1
    assert "i000" in counted(lb, 100)


def test_at_most_half_of_all_are_ejected() -> None:
    lb = balancer(Fixed(*some(4)), ejection=Ejection(failures=1))
    for instance in some(4):
        lb.pick()
        lb.report(instance, failed=True)
    assert lb.ejected == 2


@pytest.mark.parametrize("seed", range(10))
async def test_a_connection_error_is_repeated_on_another_instance(seed: int) -> None:
    lb = balancer(Fixed(*some(2)), seed=seed)
    tried: list[str] = []

    async def request(instance: Instance) -> str:
        tried.append(instance.id)
        if len(tried) == 1:
            raise ConnectionRefusedError
        return "done"

    assert await lb.call(request) == "done"
    assert sorted(tried) == ["i000", "i001"]


async def test_errors_that_are_no_connection_errors_are_not_repeated_and_eject_nobody() -> None:
    lb = balancer(Fixed(*some(2)), ejection=Ejection(failures=1))
    tried: list[str] = []

    async def request(instance: Instance) -> None:
        tried.append(instance.id)
        raise ValueError

    with pytest.raises(ValueError):
        await lb.call(request, attempts=3)
    assert len(tried) == 1
    assert lb.ejected == 0


async def test_failed_attempts_count_for_ejection() -> None:
    lb = balancer(Fixed(*some(4)), ejection=Ejection(failures=1))

    async def request(instance: Instance) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await lb.call(request)
    assert lb.ejected == 2


async def test_another_clients_error_can_be_reported() -> None:
    lb = balancer(Fixed(*some(4)), ejection=Ejection(failures=1))
    lease = lb.acquire()
    async with lease:
        lease.failed()
    lb.pick()
    assert lb.ejected == 1


def test_picks_are_counted_when_they_are_scraped() -> None:
    registry = CollectorRegistry()
    lb = LoadBalancer(Fixed(*some(2)), SERVICE, "random", registry=registry)
    for _ in range(5):
        lb.pick()
    assert registry.get_sample_value("lb_picks_total", {"service": SERVICE, "strategy": "random"}) == 5
    assert registry.get_sample_value("lb_ejected", {"service": SERVICE}) == 0
