"""Generations of the configuration and what was rejected."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

MAX_KEYS = 200  # label values; whoever can write keys must not be able to fill the monitoring


class Aging(Protocol):
    """Something with configuration."""

    @property
    def age(self) -> float: ...
    @property
    def on_defaults(self) -> bool: ...


class ConfigMetrics:
    """Counters of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._generation = Gauge("config_generation", "How often the configuration has changed in this process", registry=registry)
        self._rejected = Counter("config_rejected", "Values that could not be used; the ones before stay in force", ("key",), registry=registry)
        self._callbacks = Counter("config_callback_failures", "Callbacks that raised or did not return in time", ("reason",), registry=registry)
        self._keys: set[str] = set()
        self._stores: WeakSet[Aging] = WeakSet()
        age = Gauge("config_age_seconds", "Seconds since the configuration was last known to be current", registry=registry)
        age.set_function(lambda: max((store.age for store in self._stores), default=0.0))
        defaults = Gauge("config_on_defaults", "1 while a bound model has the code's defaults because nothing could be read yet", registry=registry)
        defaults.set_function(lambda: float(any(store.on_defaults for store in self._stores)))

    def store(self, store: Aging) -> None:
        """Tell its age while it lives."""
        self._stores.add(store)

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
