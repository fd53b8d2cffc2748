"""The watch loop over blocking reads, shared by all who ask the same question.

Promises: the latest state is eventually seen; the index that a subscriber sees never falls except at a declared reset; an unchanged value is never
delivered twice; a value is never torn, and never empty because of an error. Not promised: every value in between (Consul's polling is
level-triggered). Rules of the loop: https://developer.hashicorp.com/consul/api-docs/features/blocking.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sized
from dataclasses import dataclass
from random import Random, SystemRandom
from time import monotonic
from typing import Generic, Self, TypeVar

from groundwork.backends.base import BlockingRead, Indexed
from groundwork.consul.errors import NoLeader
from groundwork.consul.metrics import ConsulMetrics
from groundwork.consul.pacing import TokenBucket, WatchOptions, backoff
from groundwork.errors import BackendUnavailable, DeadlineExceeded, PlatformError, RateLimited
from groundwork.supervision import Supervisor, Work

T = TypeVar("T", bound=Sized)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Update(Generic[T]):
    """A state that differs from the one before. `generation` counts the states that this process saw.

    `reset`: the back end's indexes began anew (restart, restored snapshot), so `index` may be lower than before.
    """

    value: T
    index: int
    generation: int
    reset: bool = False


class Freshness:
    """How current a watch's last answer is. Age is 0 while the watch hangs on a healthy connection and grows from the moment it is lost."""

    __slots__ = ("error", "good_until", "loaded_at")

    def __init__(self) -> None:
        self.error: PlatformError | None = BackendUnavailable("nothing was read yet")
        self.good_until = monotonic()
        self.loaded_at: float | None = None

    @property
    def stale(self) -> bool:
        """Whether the connection is lost, or what it says cannot be believed."""
        return self.error is not None

    @property
    def age(self) -> float:
        """Seconds since the answer was last known to be current."""
        return 0.0 if self.error is None else monotonic() - self.good_until

    def good(self) -> None:
        """The back end has just answered."""
        self.error = None
        self.good_until = monotonic()
        if self.loaded_at is None:
            self.loaded_at = self.good_until

    def lost(self, error: PlatformError) -> None:
        """The back end cannot be believed now. Silence is older than the moment at which it was noticed; a broken connection is not."""
        if self.error is None and not isinstance(error, DeadlineExceeded):
            self.good_until = monotonic()
        self.error = error


class BlockingQuery(Generic[T]):
    """One watch: it keeps `latest` current and wakes its subscriptions. Errors keep the last good state and show in `freshness`."""

    def __init__(
        self,
        name: str,
        read: BlockingRead[T],
        options: WatchOptions,
        metrics: ConsulMetrics,
        supervisor: Supervisor,
        *,
        random: Random | None = None,
        delay: float = 0.0,
    ) -> None:
        self.name = name
        self.options = options
        self.freshness = Freshness()
        self.latest: Update[T] | None = None
        self._read = read
        self._metrics = metrics
        self._random = random or SystemRandom()
        self.delay = delay
        self._bucket = TokenBucket(options, monotonic())
        self._reset = False
        self._supervisor = supervisor
        self._work: Work | None = None
        self._listeners: list[Callable[[Update[T]], None]] = []
        self._subscriptions: set[Subscription[T]] = set()
        self._turn = asyncio.Event()

    def start(self) -> None:
        """Begin to watch, in a task of the running loop."""
        if self._work is None:
            self._work = self._supervisor.start(self._watch, name=f"watch:{self.name}")

    def stop(self) -> None:
        """Stop and end all subscriptions, without waiting for the socket to close."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
        if self._work is not None:
            self._work.stop()

    @property
    def ended(self) -> bool:
        """Whether it was stopped and its socket is closed."""
        return self._work is None or self._work.done

    async def aclose(self) -> None:
        """Stop, close the socket, end all subscriptions."""
        self.stop()
        if self._work is not None:
            await self._work.aclose()

    def listen(self, listener: Callable[[Update[T]], None]) -> None:
        """Call a function of our own, in the loop's turn, before subscriptions wake. It must be quick. One that raises has rejected the value."""
        self._listeners.append(listener)

    def subscribe(self, *, after: int = 0) -> Subscription[T]:
        """Updates after generation `after`, the current one first."""
        return Subscription(self, self._subscriptions, after)

    async def turn(self) -> None:
        """Wait until the loop has had its next answer or failure, changed or not."""
        await self._turn.wait()

    async def loaded(self, timeout: float) -> Update[T]:  # noqa: ASYNC109 the reason for the failure goes into the message
        """The first state, as soon as it is known.

        Raises what keeps the watch from knowing it: PermissionDenied at once, else BackendUnavailable after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.latest is None:
                    if self.freshness.error is not None and not isinstance(self.freshness.error, BackendUnavailable):
                        raise self.freshness.error
                    await self._turn.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"no answer about {self.name} within {timeout:g} s: {self.freshness.error}") from self.freshness.error
        return self.latest

    async def _watch(self) -> None:
        try:
            await self._run()
        finally:  # whatever has ended it, from now on nobody knows how things stand
            self.freshness.lost(BackendUnavailable(f"watch {self.name} does not run"))

    async def _run(self) -> None:
        await asyncio.sleep(self.delay)
        after: int | None = None
        failures = 0
        while True:
            await asyncio.sleep(self._bucket.take(monotonic()))
            try:
                answer = await self._read(after=after, wait=self.options.wait)
                arrived = monotonic()
                if after is not None and answer.index < after:
                    self._metrics.resets.inc()
                    self._reset, after = True, None  # the indexes began anew: ask for the state itself
                    continue
                if self._needs_confirmation(answer):
                    if self.latest is not None:  # the very first read may be followed at once
                        await asyncio.sleep(self._bucket.take(monotonic()))
                    answer = await self._confirm()
                    arrived = monotonic()
            except PlatformError as error:
                failures += 1
                self._lost(error)
            except Exception as error:  # a watch must survive what nobody thought of
                log.exception("watch %s failed in a way that is a fault of ours", self.name)
                failures += 1
                self._lost(BackendUnavailable(f"{type(error).__name__} in watch {self.name}"))
            else:
                failures = 0
                if not answer.index_valid:
                    self._metrics.resets.inc()
                after = answer.index
                self._publish(answer, arrived)
                continue
            after = None  # whoever answers next may count from another beginning
            await asyncio.sleep(self._pause(failures))

    def _needs_confirmation(self, answer: Indexed[T]) -> bool:
        """Whether the answer has less than we know, or nothing: a server without contact to its leader may have forgotten the rest.

        Raises NoLeader where such an answer comes from a server that says so itself.
        """
        if not self._emptier(answer):
            return False
        self._believe(answer)
        return True

    async def _confirm(self) -> Indexed[T]:
        answer = await self._read(consistent=True)
        if not self._emptier(answer):
            self._metrics.unconfirmed.labels(_kind(self.name)).inc()
            return answer
        self._believe(answer)
        return answer

    def _emptier(self, answer: Indexed[T]) -> bool:
        return len(answer.value) < (1 if self.latest is None else len(self.latest.value))

    def _believe(self, answer: Indexed[T]) -> None:
        if not answer.known_leader or answer.last_contact_ms > self.options.max_stale * 1000:
            self._metrics.unconfirmed.labels(_kind(self.name)).inc()
            raise NoLeader(f"an emptier answer about {self.name} from a server without contact to a leader is not believed")

    def _publish(self, answer: Indexed[T], arrived: float) -> None:
        known = self.latest
        if known is None or (answer.value is not known.value and answer.value != known.value):
            reset = self._reset or (known is not None and answer.index < known.index)
            update = Update(answer.value, answer.index, known.generation + 1 if known else 1, reset)
            self._reset = False
            self.latest = update  # the one assignment that readers see
            self.freshness.good()
            for listener in self._listeners:
                self._tell(listener, update)
            for subscription in self._subscriptions:
                subscription.wake()
            self._metrics.lag.labels(_kind(self.name)).observe(monotonic() - arrived)
        self.freshness.good()
        self._turned()

    def _tell(self, listener: Callable[[Update[T]], None], update: Update[T]) -> None:
        try:
            listener(update)
        except Exception as error:  # values come from outside: one that nobody can use must not end the watch for all later ones
            self._metrics.rejected.labels(_kind(self.name), type(error).__name__).inc()
            log.exception("a value of watch %s was rejected", self.name)

    def _lost(self, error: PlatformError) -> None:
        if self.freshness.loaded_at is not None and not self.freshness.stale:
            log.warning("watch %s lost its back end and keeps the last good state: %s", self.name, error)
        self.freshness.lost(error)
        self._metrics.errors.labels(_kind(self.name), type(error).__name__).inc()
        self._turned()

    def _pause(self, failures: int) -> float:
        pause = backoff(failures, self.options, self._random)
        error = self.freshness.error
        if isinstance(error, RateLimited) and error.retry_after is not None:
            return max(pause, min(error.retry_after, self.options.backoff_max))
        return pause

    def _turned(self) -> None:
        self._turn.set()
        self._turn = asyncio.Event()


class Subscription(Generic[T]):
    """An asynchronous iterator over updates, for one reader. A slow one misses those in between and gets the latest; nothing queues up."""

    __slots__ = ("_closed", "_query", "_registry", "_seen", "_waiter")

    def __init__(self, query: BlockingQuery[T], registry: set[Subscription[T]], after: int) -> None:
        self._query = query
        self._registry = registry
        self._seen = after
        self._waiter: asyncio.Future[None] | None = None  # one future and no event: a thousand readers wake in a few milliseconds
        self._closed = False
        registry.add(self)

    def wake(self) -> None:
        """There may be something new."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def close(self) -> None:
        """End the iteration, also of a reader that waits now."""
        self._closed = True
        self._registry.discard(self)
        self.wake()

    def __aiter__(self) -> AsyncIterator[Update[T]]:
        return self

    async def __anext__(self) -> Update[T]:
        while not self._closed:
            update = self._query.latest
            if update is not None and update.generation > self._seen:
                self._seen = update.generation
                return update
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _kind(name: str) -> str:
    """The kind of a query, for metrics: what stands before the colon, never a name that a caller chose."""
    return name.split(":", 1)[0]
