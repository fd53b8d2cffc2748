"""Which instances a service has: answered from memory, kept current by one watch per question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from random import Random
from types import TracebackType
from typing import Self

from prometheus_client import REGISTRY, CollectorRegistry

from groundwork.backends.base import DiscoverySource, ServiceQuery
from groundwork.consul.hub import Lease, WatchHub
from groundwork.consul.metrics import consul_metrics
from groundwork.consul.pacing import DISCOVERY, WatchOptions
from groundwork.consul.watch import BlockingQuery, Freshness, Update
from groundwork.discovery.errors import NotLoaded
from groundwork.discovery.metrics import discovery_metrics
from groundwork.discovery.models import Instance
from groundwork.errors import DeadlineExceeded, InvalidRequest
from groundwork.supervision import Supervisor

Instances = tuple[Instance, ...]


class ServiceSnapshot:
    """The instances of a service as they were at `index`. The lists never change; `age` and `stale` tell how far to trust them now.

    `serving` holds those that pass or only warn. Both lists are sorted by id. `reset`: indexes began anew with this one.
    """

    __slots__ = ("_freshness", "generation", "index", "instances", "reset", "service", "serving")

    def __init__(self, service: str, update: Update[Instances], freshness: Freshness) -> None:
        self.service = service
        self.instances: Instances = update.value
        serving = tuple(instance for instance in update.value if instance.serving)
        self.serving: Instances = update.value if len(serving) == len(update.value) else serving
        self.index = update.index
        self.generation = update.generation
        self.reset = update.reset
        self._freshness = freshness

    @property
    def age(self) -> float:
        """Seconds since the lists were last known to be current: 0 while the watch is connected."""
        return self._freshness.age

    @property
    def stale(self) -> bool:
        """Whether the back end is out of reach, or says nothing that can be believed."""
        return self._freshness.stale

    @property
    def known(self) -> bool:
        """Whether the service exists: without a single instance it does not, whatever it had before."""
        return bool(self.instances)

    def __repr__(self) -> str:
        return f"ServiceSnapshot({self.service!r}, {len(self.serving)} of {len(self.instances)} serving, index {self.index}, age {self.age:.3f} s)"


class DiscoveryClient:
    """Discovery over any DiscoverySource. Use it as an async context manager; it stops all its watches at the end.

    `snapshot` is a dict lookup: no lock, no await. Names given at construction or asked for by `snapshot` stay watched until the end; the
    others stay for `options.linger` seconds after their last use.
    """

    def __init__(
        self,
        source: DiscoverySource,
        services: Iterable[str] = (),
        *,
        options: WatchOptions = DISCOVERY,
        registry: CollectorRegistry = REGISTRY,
        max_watches: int = 150,
        random: Random | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._source = source
        self._wanted = tuple(services)
        self._options = options
        metrics = consul_metrics(registry)
        supervisor = supervisor or Supervisor(registry=registry)
        self._hub: WatchHub[Instances] = WatchHub(options, metrics, supervisor, limit=max_watches, random=random)
        self._names: WatchHub[Mapping[str, tuple[str, ...]]] = WatchHub(options, metrics, supervisor, random=random)
        self._snapshots: dict[str, ServiceSnapshot] = {}
        self._filtered: dict[ServiceQuery, ServiceSnapshot] = {}
        self._pinned: dict[str, Lease[Instances]] = {}
        discovery_metrics(registry).client(self)

    async def __aenter__(self) -> Self:
        for service in self._wanted:
            self._pin(service)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop all watches and close their sockets. Iterations over `watch` end; snapshots in hand stay readable."""
        self._pinned.clear()
        await asyncio.gather(self._hub.aclose(), self._names.aclose())
        self._snapshots.clear()
        self._filtered.clear()

    def snapshot(self, service: str) -> ServiceSnapshot:
        """What is known now, from memory.

        Raises NotLoaded before the first answer; the watch runs from then on, so `wait_for` or a later call will have it.
        """
        try:
            return self._snapshots[service]
        except KeyError:
            return self._missing(service)

    def peek(self, service: str) -> ServiceSnapshot | None:
        """What is known now where the service happens to be watched; starts nothing and keeps nothing alive."""
        return self._snapshots.get(service)

    async def read(self, service: str, *, filter: str = "", datacenter: str = "", timeout: float = 5.0) -> ServiceSnapshot:  # noqa: A002, ASYNC109 Consul's name; the reason for the failure is kept
        """What is known, waiting for the first answer where there is none yet. `filter` is evaluated by the back end.

        Raises DeadlineExceeded without an answer within `timeout` seconds, PermissionDenied where it was refused.
        """
        query = ServiceQuery(service, filter, datacenter)
        with self._lease(query) as lease:
            await lease.query.loaded(timeout)
            return self._of(query)

    async def wait_for(self, service: str, min_instances: int = 1, timeout: float = 10.0) -> ServiceSnapshot:  # noqa: ASYNC109 the reason for the failure is kept
        """The first snapshot with at least `min_instances` that serve.

        Raises DeadlineExceeded after `timeout` seconds, with what was seen instead, and PermissionDenied where it was refused.
        """
        with self._lease(ServiceQuery(service)) as lease:
            try:
                async with asyncio.timeout(timeout), lease.query.subscribe() as updates:
                    await lease.query.loaded(timeout)
                    async for _ in updates:
                        snapshot = self._snapshots[service]
                        if len(snapshot.serving) >= min_instances:
                            return snapshot
            except TimeoutError:
                seen = self._snapshots.get(service)
                state = repr(seen) if seen else str(lease.query.freshness.error)
                raise DeadlineExceeded(f"{service} has fewer than {min_instances} serving instances after {timeout:g} s: {state}") from None
        raise InvalidRequest("the client was closed while it waited")

    async def watch(self, service: str, *, filter: str = "", datacenter: str = "") -> AsyncIterator[ServiceSnapshot]:  # noqa: A002 Consul's own name
        """The current snapshot and then each later one; a slow reader gets the latest and misses those in between."""
        query = ServiceQuery(service, filter, datacenter)
        with self._lease(query) as lease:
            async with lease.query.subscribe() as updates:
                async for _ in updates:
                    yield self._of(query)

    async def services(self, *, timeout: float = 5.0) -> Mapping[str, tuple[str, ...]]:  # noqa: ASYNC109 the reason for the failure is kept
        """Names of all services with their tags, from memory after the first call.

        Raises DeadlineExceeded without an answer within `timeout` seconds, PermissionDenied where it was refused.
        """
        with self._names.lease("services", "services", self._source.services) as lease:
            return (await lease.query.loaded(timeout)).value

    def freshness(self, service: str) -> Freshness | None:
        """How current the watch of a service is and what keeps it from being so; None where it is not watched."""
        query = self._hub.get(ServiceQuery(service))
        return query.freshness if query else None

    def forget(self, service: str) -> None:
        """Stop to keep a name that `snapshot` asked for."""
        lease = self._pinned.pop(service, None)
        if lease is not None:
            lease.release()

    def ages(self) -> Mapping[str, float]:
        """Age in seconds of every snapshot."""
        return {service: snapshot.age for service, snapshot in self._snapshots.items()}

    def _missing(self, service: str) -> ServiceSnapshot:
        query = self._pin(service)
        found = self._snapshots.get(service)
        if found is None:
            reason = query.freshness.error or "the answer is on its way"
            raise NotLoaded(f"nothing is known about {service} yet ({reason}): await wait_for({service!r}), or name it when the client is made")
        return found

    def _pin(self, service: str) -> BlockingQuery[Instances]:
        lease = self._pinned.get(service)
        if lease is None:
            lease = self._pinned[service] = self._lease(ServiceQuery(service))
        return lease.query

    def _lease(self, query: ServiceQuery) -> Lease[Instances]:
        return self._hub.lease(
            query,
            f"service:{query.service}",
            lambda: self._source.service(query),
            listener=lambda running, update: self._swap(query, running, update),
            on_drop=lambda: self._dropped(query),
        )

    def _swap(self, query: ServiceQuery, running: BlockingQuery[Instances], update: Update[Instances]) -> None:
        snapshot = ServiceSnapshot(query.service, update, running.freshness)
        if query.filter or query.datacenter:
            self._filtered[query] = snapshot
        else:
            self._snapshots[query.service] = snapshot

    def _of(self, query: ServiceQuery) -> ServiceSnapshot:
        return self._filtered[query] if query.filter or query.datacenter else self._snapshots[query.service]

    def _dropped(self, query: ServiceQuery) -> None:
        self._filtered.pop(query, None)
        if not (query.filter or query.datacenter):
            self._snapshots.pop(query.service, None)
