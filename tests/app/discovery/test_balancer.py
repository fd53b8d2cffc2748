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
from groundwork.discovery.retries import Retries, RetryBudget, status_of
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
    source: Fixed,
    strategy: str = "p2c",
    *,
    zone: str = "",
    ejection: Ejection | None = None,
    panic: Panic | None = None,
    retries: Retries | None = None,
    registry: CollectorRegistry | None = None,
    seed: int = 1,
) -> LoadBalancer:
    """A balancer with a registry and a seed of its own."""
    return LoadBalancer(
        source,
        SERVICE,
        strategy,
        zone=zone,
        ejection=ejection or Ejection(),
        panic=panic or Panic(),
        retries=retries or Retries(pause=0.001),
        random=Random(seed),
        registry=registry or CollectorRegistry(),
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


async def hang(_instance: Instance) -> None:
    await asyncio.Event().wait()


async def times_out(lb: LoadBalancer) -> None:
    """A caller whose own deadline passes."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await lb.call(hang)


async def test_an_instance_that_lets_its_callers_deadlines_pass_is_ejected() -> None:
    lb = balancer(Fixed(*some(2)), ejection=Ejection(failures=2))
    for _ in range(4):
        await times_out(lb)
    lb.settle()
    assert lb.ejected == 1


async def test_the_balancers_own_deadline_covers_all_attempts_and_counts() -> None:
    lb = balancer(Fixed(*some(2)), ejection=Ejection(failures=1))
    with pytest.raises(TimeoutError):
        await lb.call(hang, timeout=0.001)
    lb.settle()
    assert lb.ejected == 1


async def test_a_request_that_nobody_waits_for_any_more_says_nothing_about_its_instance() -> None:
    lb = balancer(Fixed(*some(2)), ejection=Ejection(failures=1))
    for _ in range(5):
        task = asyncio.create_task(lb.call(hang))
        await asyncio.sleep(0)
        lb.settle()
        task.cancel()
        await asyncio.wait({task})
    lb.settle()
    assert lb.ejected == 0


class Answer:
    """As an HTTP client answers."""

    def __init__(self, status: int) -> None:
        self.status = status


class Refused(Exception):
    """As an HTTP client raises for a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.response = Answer(status)


@pytest.mark.parametrize("raised", [False, True], ids=["returned", "raised"])
@pytest.mark.parametrize(("counts", "status", "ejected"), [(True, 503, 1), (True, 404, 0), (False, 503, 0)])
async def test_server_errors_count_where_they_are_meant_to(raised: bool, counts: bool, status: int, ejected: int) -> None:
    lb = balancer(Fixed(*some(4)), ejection=Ejection(failures=1, server_errors=counts))
    sent: list[str] = []

    async def request(instance: Instance) -> Answer:
        sent.append(instance.id)
        if raised:
            raise Refused(status)
        return Answer(status)

    if raised:
        with pytest.raises(Refused):
            await lb.call(request)
    else:
        assert (await lb.call(request)).status == status
    assert (len(sent), lb.ejected) == (1, ejected)


async def test_who_refuses_a_request_has_answered_it_which_ends_a_row_of_failures() -> None:
    lb = balancer(Fixed(*some(1)), ejection=Ejection(failures=2, max_share=1))
    lb.pick()
    for error in (ConnectionResetError(), Refused(404), ConnectionResetError()):
        with pytest.raises(type(error)):
            async with lb.acquire():
                raise error
    assert lb.ejected == 0


@pytest.mark.parametrize(
    ("answer", "status"), [(Answer(503), 503), (Refused(404), 404), (type("Response", (), {"status_code": 500})(), 500), ("text", None), (None, None)]
)
def test_the_status_of_what_clients_answer_and_raise(answer: object, status: int | None) -> None:
    assert status_of(answer) == status


async def test_retries_stop_when_nearly_all_requests_fail_and_it_is_counted() -> None:
    registry = CollectorRegistry()
    lb = balancer(Fixed(*some(10)), ejection=Ejection(failures=1000), retries=Retries(pause=0.0, share=0.1, reserve=5), registry=registry)
    sent: list[str] = []

    async def request(instance: Instance) -> None:
        sent.append(instance.id)
        raise ConnectionRefusedError

    for _ in range(100):
        with pytest.raises(ConnectionRefusedError):
            await lb.call(request)
    labels = {"service": SERVICE, "strategy": "p2c"}
    retries = registry.get_sample_value("lb_retries_total", labels)
    assert retries is not None
    assert retries == len(sent) - 100
    assert 13 <= retries <= 16  # the reserve, and a tenth
    assert registry.get_sample_value("lb_retries_refused_total", labels) == 100 - retries


async def test_between_two_attempts_there_is_a_pause_that_grows_and_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    lb = balancer(Fixed(*some(5)), retries=Retries(attempts=4, pause=1.0, reserve=1000))
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def request(_instance: Instance) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    for _ in range(200):
        with pytest.raises(ConnectionRefusedError):
            await lb.call(request)
    for number, longest in enumerate((1.0, 2.0, 4.0)):
        own = pauses[number::3]
        assert longest * 0.9 < max(own) < longest
        assert min(own) < longest * 0.1


def test_a_budget_earns_its_share_and_saves_no_more_than_its_reserve() -> None:
    budget = RetryBudget(Retries(share=0.5, reserve=2))
    for _ in range(100):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()


@pytest.mark.parametrize("bad", [{"attempts": 0}, {"pause": -1.0}, {"share": 1.5}, {"reserve": -1}])
def test_retries_that_cannot_work_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        Retries(**bad)  # pyright: ignore[reportArgumentType]


def test_p2c_goes_by_weight_while_nobody_is_busy() -> None:
    light, heavy = some(1, weight=1)[0], some(1, weight=3, first=1)[0]
    counts = counted(balancer(Fixed(light, heavy)), 4000)
    assert 0.22 < counts[light.id] / 4000 < 0.28


def test_p2c_gives_each_as_many_requests_at_once_as_its_weight_says() -> None:
    instances = (*some(2, weight=1), *some(2, weight=4, first=2))
    lb = balancer(Fixed(*instances))
    for _ in range(1000):
        lb.begin(lb.pick())
    loads = [lb.in_flight(instance.id) for instance in instances]
    assert all(95 <= load <= 105 for load in loads[:2])
    assert all(395 <= load <= 405 for load in loads[2:])


def test_p2c_never_picks_what_has_no_weight_and_takes_all_alike_where_none_has() -> None:
    source = Fixed(*some(2, weight=0), *some(2, weight=2, first=2))
    lb = balancer(source)
    assert set(counted(lb, 500)) == {"i002", "i003"}
    source.set(*some(3, weight=0))
    assert min(counted(lb, 900).values()) > 200


def test_p2c_follows_weights_that_change() -> None:
    source = Fixed(*some(1, weight=1), *some(1, weight=9, first=1))
    lb = balancer(source)
    assert counted(lb, 1000)["i001"] > 800
    source.set(*some(2))
    assert 400 < counted(lb, 1000)["i001"] < 600
    source.set(*some(1, weight=9), *some(1, weight=1, first=1))
    assert counted(lb, 1000)["i000"] > 800
