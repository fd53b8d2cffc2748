"""Ages of snapshots, picks and ejections. Numbers are read from the live objects when they are scraped, so that reads and picks pay nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


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
            self._past[balancer.service, balancer.strategy, "picks"] += balancer.picks
            self._past[balancer.service, balancer.strategy, "panics"] += balancer.panics

    def collect(self) -> Iterable[Metric]:
        """Called by Prometheus."""
        ages = GaugeMetricFamily("snapshot_age_seconds", "Seconds since the instances of a service were last known to be current", labels=["service"])
        for service, age in sorted({service: age for client in self._clients for service, age in client.ages().items()}.items()):
            ages.add_metric([service], age)
        picks = CounterMetricFamily("lb_picks", "Instances picked", labels=["service", "strategy"])
        panics = CounterMetricFamily("lb_panics", "Picks while too few instances were healthy", labels=["service", "strategy"])
        ejected = GaugeMetricFamily("lb_ejected", "Instances that are left out now because they failed", labels=["service"])
        counts, out = Counter(self._past), Counter[str]()
        for balancer in self._balancers:
            counts[balancer.service, balancer.strategy, "picks"] += balancer.picks
            counts[balancer.service, balancer.strategy, "panics"] += balancer.panics
            out[balancer.service] += balancer.ejected
        for (service, strategy, kind), count in sorted(counts.items()):
            (picks if kind == "picks" else panics).add_metric([service, strategy], count)
        for service, count in sorted(out.items()):
            ejected.add_metric([service], count)
        return [ages, picks, panics, ejected]


_by_registry: WeakKeyDictionary[CollectorRegistry, DiscoveryMetrics] = WeakKeyDictionary()


def discovery_metrics(registry: CollectorRegistry = REGISTRY) -> DiscoveryMetrics:
    """The metrics of `registry`, made at the first call."""
    found = _by_registry.get(registry)
    if found is None:
        found = _by_registry[registry] = DiscoveryMetrics()
        registry.register(found)
    return found
