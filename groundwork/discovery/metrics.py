"""Ages of snapshots, picks and ejections. Numbers are read from the live objects when they are scraped, so that reads and picks pay nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_COUNTS = {
    "picks": "Instances picked",
    "panics": "Picks while too few instances were healthy",
    "retries": "Requests sent again to another instance",
    "retries_refused": "Requests not sent again because too many had been",
}


class AgeSource(Protocol):
    """Something with snapshots."""

    def ages(self) -> Mapping[str, float]:
        """Age in seconds by service."""
        ...


class PickSource(Protocol):
    """Something that picks instances of one service."""

    @property
    def service(self) -> str: ...
    @property
    def strategy(self) -> str: ...
    @property
    def picks(self) -> int: ...
    @property
    def ejected(self) -> int: ...
    @property
    def panics(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def retries_refused(self) -> int: ...


class DiscoveryMetrics(Collector):
    """Collects from every client and balancer that is alive; counts of balancers that are gone are kept."""

    def __init__(self) -> None:
        self._clients: WeakSet[AgeSource] = WeakSet()
        self._balancers: WeakSet[PickSource] = WeakSet()
        self._past: Counter[tuple[str, str, str]] = Counter()

    def client(self, client: AgeSource) -> None:
        """Collect from it while it lives."""
        self._clients.add(client)

    def balancer(self, balancer: PickSource) -> None:
        """Collect from it while it lives."""
        self._balancers.add(balancer)

    def retire(self, balancer: PickSource) -> None:
        """Keep what it counted and stop reading it."""
        if balancer in self._balancers:
            self._balancers.discard(balancer)
            _count(balancer, self._past)

    def collect(self) -> Iterable[Metric]:
        """Called by Prometheus."""
        ages = GaugeMetricFamily("snapshot_age_seconds", "Seconds since the instances of a service were last known to be current", labels=["service"])
        for service, age in sorted({service: age for client in self._clients for service, age in client.ages().items()}.items()):
            ages.add_metric([service], age)
        families = {kind: CounterMetricFamily(f"lb_{kind}", text, labels=["service", "strategy"]) for kind, text in _COUNTS.items()}
        ejected = GaugeMetricFamily("lb_ejected", "Instances that are left out now because they failed", labels=["service"])
        counts, out = Counter(self._past), Counter[str]()
        for balancer in self._balancers:
            _count(balancer, counts)
            out[balancer.service] += balancer.ejected
        for (service, strategy, kind), count in sorted(counts.items()):
            families[kind].add_metric([service, strategy], count)
        for service, count in sorted(out.items()):
            ejected.add_metric([service], count)
        return [ages, *families.values(), ejected]


def _count(balancer: PickSource, into: Counter[tuple[str, str, str]]) -> None:
    """Add what the balancer has counted."""
    counts = {"picks": balancer.picks, "panics": balancer.panics, "retries": balancer.retries, "retries_refused": balancer.retries_refused}
    for kind, count in counts.items():
        into[balancer.service, balancer.strategy, kind] += count


_by_registry: WeakKeyDictionary[CollectorRegistry, DiscoveryMetrics] = WeakKeyDictionary()


def discovery_metrics(registry: CollectorRegistry = REGISTRY) -> DiscoveryMetrics:
    """The metrics of `registry`, made at the first call."""
    found = _by_registry.get(registry)
    if found is None:
        found = _by_registry[registry] = DiscoveryMetrics()
        registry.register(found)
    return found
