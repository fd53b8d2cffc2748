"""Generations of the configuration and what was rejected."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

MAX_KEYS = 200  # label values; whoever can write keys must not be able to fill the monitoring


class ConfigMetrics:
    """Counters of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._generation = Gauge("config_generation", "How often the configuration has changed in this process", registry=registry)
        self._rejected = Counter("config_rejected", "Values that could not be used; the ones before stay in force", ("key",), registry=registry)
        self._callbacks = Counter("config_callback_failures", "Callbacks that raised or did not return in time", ("reason",), registry=registry)
        self._keys: set[str] = set()

    def changed(self, generation: int) -> None:
        """A new generation is in force."""
        self._generation.set(generation)

    def rejected(self, key: str) -> None:
        """A value was not usable."""
        if key not in self._keys:
            if len(self._keys) >= MAX_KEYS:
                key = "(others)"
            self._keys.add(key)
        self._rejected.labels(key).inc()

    def callback_failed(self, reason: str) -> None:
        """A callback raised (its error's type) or timed out."""
        self._callbacks.labels(reason).inc()


_by_registry: WeakKeyDictionary[CollectorRegistry, ConfigMetrics] = WeakKeyDictionary()


def config_metrics(registry: CollectorRegistry = REGISTRY) -> ConfigMetrics:
    """The metrics of `registry`, made at the first call."""
    found = _by_registry.get(registry)
    if found is None:
        found = _by_registry[registry] = ConfigMetrics(registry)
    return found
