"""One watch per question, however many ask it. The last to leave keeps it warm for a while, and in an outage until the outage is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sized
from random import Random, SystemRandom
from time import monotonic
from typing import Generic, Self, TypeVar

from groundwork.backends.base import BlockingRead
from groundwork.consul.metrics import ConsulMetrics
from groundwork.consul.pacing import WatchOptions
from groundwork.consul.watch import BlockingQuery, Update
from groundwork.errors import InvalidRequest
from groundwork.supervision import Supervisor

T = TypeVar("T", bound=Sized)

YOUNG = 5.0  # seconds after its start in which a hub spreads its first reads, so that a restarted fleet does not ask at once


class Lease(Generic[T]):
    """The right to a shared watch, until released. Releasing twice is fine."""

    __slots__ = ("_hub", "_key", "query")

    def __init__(self, hub: WatchHub[T], key: Hashable, query: BlockingQuery[T]) -> None:
        self.query = query
        self._key = key
        self._hub: WatchHub[T] | None = hub

    def release(self) -> None:
        """Give the watch back."""
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.release(self._key, self.query)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class WatchHub(Generic[T]):
    """The shared watches of one kind. `limit` bounds how many may run at once: Consul refuses a client with more than 200 connections."""

    def __init__(
        self, options: WatchOptions, metrics: ConsulMetrics, supervisor: Supervisor, *, limit: int = 150, random: Random | None = None
    ) -> None:
        self.options = options
        self._metrics = metrics
        self._supervisor = supervisor
        self._limit = limit
        self._random = random or SystemRandom()
        self._born: float | None = None
        self._queries: dict[Hashable, BlockingQuery[T]] = {}
        self._users: dict[Hashable, int] = {}
        self._lingering: dict[Hashable, asyncio.TimerHandle] = {}
        self._on_drop: dict[Hashable, Callable[[], None]] = {}
        self._dropped: list[BlockingQuery[T]] = []
        self._closed = False

    def __len__(self) -> int:
        return len(self._queries)

    def lease(
        self,
        key: Hashable,
        name: str,
        read: Callable[[], BlockingRead[T]],
        *,
        listener: Callable[[BlockingQuery[T], Update[T]], None] | None = None,
        on_drop: Callable[[], None] | None = None,
    ) -> Lease[T]:
        """The watch of `key`, started with `read` if it does not run yet. Must be called in a running loop.

        `listener` is called with each update before subscriptions wake, `on_drop` when the watch ends because nobody uses it.

        Raises InvalidRequest where the hub is closed or already has `limit` watches.
        """
        if self._closed:
            raise InvalidRequest("the client is closed: open a new one")
        query = self._queries.get(key)
        if query is None:
            query = self._begin(key, name, read, listener)
            if on_drop is not None:
                self._on_drop[key] = on_drop
        lingering = self._lingering.pop(key, None)
        if lingering is not None:
            lingering.cancel()
        self._users[key] = self._users.get(key, 0) + 1
        return Lease(self, key, query)

    def release(self, key: Hashable, query: BlockingQuery[T]) -> None:
        """Called by a lease."""
        if self._queries.get(key) is not query:
            return
        self._users[key] -= 1
        if self._users[key] == 0:
            self._linger(key)

    def get(self, key: Hashable) -> BlockingQuery[T] | None:
        """The running watch of `key`, not leased."""
        return self._queries.get(key)

    async def aclose(self) -> None:
        """Stop all watches and wait until their sockets are closed."""
        self._closed = True
        for handle in self._lingering.values():
            handle.cancel()
        self._lingering.clear()
        queries = tuple(self._queries.values())
        self._queries.clear()
        self._users.clear()
        await asyncio.gather(*(query.aclose() for query in (*queries, *self._dropped)))

    def _begin(
        self, key: Hashable, name: str, read: Callable[[], BlockingRead[T]], listener: Callable[[BlockingQuery[T], Update[T]], None] | None
    ) -> BlockingQuery[T]:
        if len(self._queries) >= self._limit:
            self._evict()
        now = monotonic()
        if self._born is None:
            self._born = now
        delay = self._random.uniform(0, self.options.start_jitter) if now - self._born < YOUNG else 0.0
        query = BlockingQuery(name, read(), self.options, self._metrics, self._supervisor, random=self._random, delay=delay)
        if listener is not None:
            query.listen(lambda update: listener(query, update))
        self._queries[key] = query
        query.start()
        return query

    def _evict(self) -> None:
        """Make room: what lingers unused goes first."""
        if not self._lingering:
            raise InvalidRequest(f"{self._limit} watches run already, more would be refused by Consul: watch fewer things from one process")
        oldest = min(self._lingering, key=self._irreplaceable)  # the first of those that could be read again
        self._lingering[oldest].cancel()
        self._drop(oldest)

    def _linger(self, key: Hashable) -> None:
        self._lingering[key] = asyncio.get_running_loop().call_later(self.options.linger, self._unused, key)

    def _unused(self, key: Hashable) -> None:
        """Nobody asked for a while: let it go, unless its answer is the last one that there is."""
        if self._irreplaceable(key):
            self._linger(key)
        else:
            self._drop(key)

    def _irreplaceable(self, key: Hashable) -> bool:
        query = self._queries[key]
        return query.latest is not None and query.freshness.stale

    def _drop(self, key: Hashable) -> None:
        self._lingering.pop(key, None)
        self._users.pop(key, None)
        query = self._queries.pop(key, None)
        on_drop = self._on_drop.pop(key, None)
        if on_drop is not None:
            on_drop()
        if query is not None:
            query.stop()
            self._dropped = [*(dropped for dropped in self._dropped if not dropped.ended), query]
