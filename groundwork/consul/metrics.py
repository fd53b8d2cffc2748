"""Counters of the client and of the watch loop. One set per registry, so that several clients in one process share it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram


class ConsulMetrics:
    """Requests by operation and result; watches by query, where a query is a kind of question and never holds a caller's text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Histogram("consul_request_seconds", "Time of a request to Consul, blocking ones included", ("op", "code"), registry=registry)
        self.lag = Histogram(
            "watch_lag_seconds",
            "Time from an answer's arrival to the swap of the snapshot",
            ("query",),
            registry=registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
        )
        self.resets = Counter("watch_resets", "Times that an index went backwards or could not be read", registry=registry)
        self.errors = Counter("watch_errors", "Failed turns of a watch", ("query", "error"), registry=registry)
        self.rejected = Counter("watch_rejected", "Values that whoever listens could not use", ("query", "error"), registry=registry)
        self.unconfirmed = Counter("watch_unconfirmed", "Emptier answers that a consistent read did not confirm", ("query",), registry=registry)


_by_registry: WeakKeyDictionary[CollectorRegistry, ConsulMetrics] = WeakKeyDictionary()


def consul_metrics(registry: CollectorRegistry = REGISTRY) -> ConsulMetrics:
    """The metrics of `registry`, made at the first call."""
    found = _by_registry.get(registry)
    if found is None:
        found = _by_registry[registry] = ConsulMetrics(registry)
    return found
