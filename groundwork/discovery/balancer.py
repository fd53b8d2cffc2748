"""One instance per request: who may be picked, who is left out for a while, and what to do when too few are healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Final, Literal, Protocol, TypeVar

import aiohttp
from prometheus_client import REGISTRY, CollectorRegistry

from groundwork.discovery.client import ServiceSnapshot
from groundwork.discovery.metrics import discovery_metrics
from groundwork.discovery.models import Instance, Status
from groundwork.discovery.retries import DEFAULT_RETRIES, Retries, RetryBudget, status_of
from groundwork.discovery.strategies import strategy
from groundwork.errors import InvalidRequest, NoInstances, ServiceUnknown

R = TypeVar("R")

# What says that an instance cannot be reached. Clients with errors of their own report by `Lease.failed()`.
CONNECTION_ERRORS: Final[tuple[type[BaseException], ...]] = (OSError, TimeoutError, aiohttp.ClientConnectionError)


class Snapshots(Protocol):
    """Where a balancer reads from: a DiscoveryClient."""

    def snapshot(self, service: str) -> ServiceSnapshot:
        """What is known now."""
        ...


@dataclass(frozen=True, slots=True)
class Ejection:
    """After `failures` failed requests in a row an instance is left out for `seconds`, longer each further time; at most `max_share` of all.

    `server_errors`: whether an answer of 500 or more is a failed request too.
    """

    failures: int = 5
    seconds: float = 30.0
    max_share: float = 0.5
    server_errors: bool = False

    def __post_init__(self) -> None:
        if self.failures < 1 or self.seconds <= 0 or not 0 <= self.max_share <= 1:
            raise InvalidRequest(f"{self}: need failures >= 1, seconds > 0 and max_share between 0 and 1")


@dataclass(frozen=True, slots=True)
class Panic:
    """What happens while less than `threshold` of the instances are healthy (Envoy's rule and default).

    `open`: all but those in maintenance are picked, since health itself is in doubt and the few would be overrun. `closed`: none.
    """

    threshold: float = 0.5
    mode: Literal["open", "closed"] = "open"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InvalidRequest(f"panic threshold {self.threshold}: need a share between 0 and 1")


DEFAULT_EJECTION: Final = Ejection()
DEFAULT_PANIC: Final = Panic()


class LoadBalancer:
    """Picks instances of one service. Share one per service: the requests in flight are counted here.

    `zone` prefers instances of that zone while enough of them are healthy. Raises InvalidRequest for an unknown strategy.
    """

    def __init__(
        self,
        source: Snapshots,
        service: str,
        strategy_name: str = "p2c",
        *,
        zone: str = "",
        ejection: Ejection = DEFAULT_EJECTION,
        panic: Panic = DEFAULT_PANIC,
        retries: Retries = DEFAULT_RETRIES,
        failures: tuple[type[BaseException], ...] = CONNECTION_ERRORS,
        random: Random | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.service = service
        self.strategy = strategy_name
        self.picks = 0
        self.panics = 0
        self.retries = 0
        self.retries_refused = 0
        self.failures = failures
        self._snapshot = source.snapshot
        self._in_flight: dict[str, int] = {}
        self._random = random or Random()  # noqa: S311 spreads load, guards nothing
        self._retries = retries
        self._budget = RetryBudget(retries)
        self._cut_off: list[tuple[asyncio.Task[object], int, Instance]] = []
        self._strategy = strategy(strategy_name, self._random, self._in_flight)
        self._choose = self._strategy.choose
        self._zone = zone
        self._ejection = ejection
        self._panic = panic
        self._panicking = False
        self._failed: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._out: dict[str, float] = {}
        self._seen: ServiceSnapshot | None = None
        self._candidates: tuple[Instance, ...] = ()
        discovery_metrics(registry).balancer(self)

    def pick(self, key: str = "") -> Instance:
        """One instance, from memory. `key` is what consistent_hash goes by.

        Raises NotLoaded before the first answer, ServiceUnknown where the service has no instance at all, NoInstances where none may be picked.
        """
        snapshot = self._snapshot(self.service)
        if snapshot is not self._seen or self._out:
            self._refresh(snapshot)
        self.picks += 1
        if self._panicking:
            self.panics += 1
        return self._choose(key)

    def acquire(self, key: str = "", *, exclude: frozenset[str] = frozenset()) -> Lease:
        """One instance for the time of an `async with` block, which counts as a request in flight and as failed if a connection error leaves it.

        `exclude` holds ids that were tried already; it is ignored where nobody else is left. Raises as `pick` does, on entry.
        """
        return Lease(self, key, exclude)

    async def call(
        self,
        request: Callable[[Instance], Awaitable[R]],
        *,
        key: str = "",
        attempts: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 one deadline over all attempts and the pauses between them
    ) -> R:
        """Run `request`, and again on another instance if that one could not be reached. Only for requests that may be repeated.

        At most `attempts` times (else as `retries` says), all of them within `timeout` seconds. Raises what the last attempt raised, and
        TimeoutError.
        """
        most = self._retries.attempts if attempts is None else attempts
        if most < 1:
            raise InvalidRequest(f"attempts is {most}: need at least 1")
        self._budget.earn()
        tried: frozenset[str] = frozenset()
        async with asyncio.timeout(timeout):
            for attempt in range(1, most):
                lease = self.acquire(key, exclude=tried)
                try:
                    return await self._attempt(lease, request)
                except self.failures:
                    if not self._budget.spend():
                        self.retries_refused += 1
                        raise
                self.retries += 1
                tried |= {lease.picked}
                await asyncio.sleep(self._retries.pause_before(attempt + 1, self._random))
            return await self._attempt(self.acquire(key, exclude=tried), request)

    async def _attempt(self, lease: Lease, request: Callable[[Instance], Awaitable[R]]) -> R:
        async with lease as instance:
            answer = await request(instance)
            if self.is_server_error(answer):
                lease.failed()
            return answer

    def in_flight(self, instance_id: str) -> int:
        """Requests of this process that run on an instance now."""
        return self._in_flight.get(instance_id, 0)

    @property
    def ejected(self) -> int:
        """How many instances are left out now."""
        now = monotonic()
        return sum(until > now for until in self._out.values())

    def pick_other(self, key: str, exclude: frozenset[str]) -> Instance:
        """A pick outside of `exclude`, where there is one."""
        instance = self.pick(key)
        if instance.id in exclude:
            others = tuple(other for other in self._candidates if other.id not in exclude)
            if others:
                self._offer(others)
                try:
                    return self._choose(key)
                finally:
                    self._offer(self._candidates)
        return instance

    def begin(self, instance: Instance) -> None:
        """A request starts on the instance; for callers that cannot use `acquire`."""
        count = self._in_flight[instance.id] = self._in_flight.get(instance.id, 0) + 1
        self._strategy.loaded(instance.id, count)

    def end(self, instance: Instance) -> None:
        """A request on the instance is over."""
        left = self._in_flight.get(instance.id, 0) - 1
        if left > 0:
            self._in_flight[instance.id] = left
        else:
            self._in_flight.pop(instance.id, None)
        self._strategy.loaded(instance.id, max(0, left))

    def report(self, instance: Instance, *, failed: bool) -> None:
        """How a request ended: failures in a row lead to ejection, a success ends the row."""
        if not failed:
            self._failed.pop(instance.id, None)
            self._times.pop(instance.id, None)
            return
        count = self._failed[instance.id] = self._failed.get(instance.id, 0) + 1
        if count < self._ejection.failures or instance.id in self._out or self._seen is None:
            return
        if len(self._out) + 1 > self._ejection.max_share * len(self._seen.instances):
            return
        times = self._times[instance.id] = self._times.get(instance.id, 0) + 1
        self._out[instance.id] = monotonic() + self._ejection.seconds * times
        self._seen = None  # the candidates have changed

    def is_server_error(self, answer: object) -> bool:
        """Whether the answer, or the error, says that the server failed, and such answers count."""
        return self._ejection.server_errors and (status_of(answer) or 0) >= 500

    def cut_off(self, instance: Instance) -> None:
        """The request's task was cancelled. If that was its caller's deadline the instance was too slow, and `settle` will see it."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            self._cut_off.append((task, task.cancelling(), instance))

    def settle(self) -> None:
        """Tell deadlines from other cancellations: `asyncio.timeout` takes its own back, and the task goes on; others end the task."""
        undecided: list[tuple[asyncio.Task[object], int, Instance]] = []
        for task, cancelling, instance in self._cut_off:
            if task.cancelling() < cancelling:
                self.report(instance, failed=True)
            elif not task.done():
                undecided.append((task, cancelling, instance))
        self._cut_off = undecided

    def _offer(self, candidates: tuple[Instance, ...]) -> None:
        self._strategy.update(candidates)
        self._choose = self._strategy.choose

    def _refresh(self, snapshot: ServiceSnapshot) -> None:
        back = [instance_id for instance_id, until in self._out.items() if until <= monotonic()]
        for instance_id in back:
            del self._out[instance_id]
            self._failed[instance_id] = self._ejection.failures - 1  # one more failure and it is out again
        if snapshot is self._seen and not back:
            return
        self._panicking = False
        self._candidates = self._candidates_of(snapshot)
        self._seen = snapshot
        self._offer(self._candidates)
        ids = {instance.id for instance in snapshot.instances}
        for table in (self._failed, self._times, self._out):
            for gone in table.keys() - ids:
                del table[gone]

    def _candidates_of(self, snapshot: ServiceSnapshot) -> tuple[Instance, ...]:
        everyone = snapshot.instances
        if not everyone:
            raise ServiceUnknown(f"service {self.service} has no instance: is its name right, and does it run?")
        usable = tuple(i for i in everyone if i.status is not Status.MAINTENANCE)  # taken out on purpose: no sign of trouble
        healthy = tuple(i for i in snapshot.serving if i.id not in self._out) if self._out else snapshot.serving
        if len(healthy) < self._panic.threshold * len(usable) or not healthy:
            if self._panic.mode == "closed" or not usable:
                self._seen = None
                raise NoInstances(f"{len(healthy)} of {len(everyone)} instances of {self.service} are healthy: fewer than may be picked from")
            self._panicking = True
            return usable
        if self._zone:
            near = tuple(i for i in healthy if i.zone == self._zone)
            in_zone = sum(i.zone == self._zone for i in usable)
            if near and len(near) >= self._panic.threshold * in_zone:
                return near
        return healthy


class Lease:
    """An instance while a request runs on it."""

    __slots__ = ("_balancer", "_exclude", "_failed", "_instance", "_key", "picked")

    def __init__(self, balancer: LoadBalancer, key: str, exclude: frozenset[str]) -> None:
        self._balancer = balancer
        self._key = key
        self._exclude = exclude
        self._instance: Instance | None = None
        self._failed = False
        self.picked = ""  # the id, also after the block

    def failed(self) -> None:
        """The request failed because of the instance, whatever the block raises."""
        self._failed = True

    async def __aenter__(self) -> Instance:
        balancer = self._balancer
        balancer.settle()
        instance = balancer.pick_other(self._key, self._exclude) if self._exclude else balancer.pick(self._key)
        balancer.begin(instance)
        self._instance = instance
        self.picked = instance.id
        return instance

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        instance, self._instance = self._instance, None
        if instance is None:
            return
        balancer = self._balancer
        balancer.end(instance)
        if self._failed or isinstance(error, balancer.failures) or (error is not None and balancer.is_server_error(error)):
            balancer.report(instance, failed=True)
        elif error is None or (status_of(error) or 500) < 500:  # who refuses a request has answered it
            balancer.report(instance, failed=False)
        elif isinstance(error, asyncio.CancelledError):
            balancer.cut_off(instance)
