"""The metrics of the runtime's own parts. One `Metrics` per process, nothing global; the Consul client, discovery and configuration
add theirs to its `registry`.
"""

from __future__ import annotations

import asyncio
import contextlib

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG_INTERVAL = 0.5  # seconds between two looks at the event loop


class Metrics:
    """Counters, gauges and histograms of one process. Labels are bounded: routes, service names and states, never ids or paths."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        r = self.registry
        self.http_request_seconds = Histogram(
            "http_request_seconds", "Time to answer an HTTP request", ("method", "route", "code"), buckets=_FAST, registry=r
        )
        self._answered: dict[tuple[str, str, int], Histogram] = {}
        self.in_flight = 0  # HTTP requests
        Gauge("http_in_flight", "HTTP requests being answered", registry=r).set_function(lambda: self.in_flight)
        self.health_check_status = Gauge("health_check_status", "State of a check: 0 pass, 1 warn, 2 fail", ("check",), registry=r)
        self.event_loop_lag_seconds = Gauge("event_loop_lag_seconds", "How late the event loop ran a timer, the last time", registry=r)
        self.registrations = Gauge("registrations", "Instances in the registry", ("status",), registry=r)
        self.records_unreadable = Gauge("records_unreadable", "Stored values that are no record of the registry's", registry=r)
        self.leases_expired_total = Counter("leases_expired_total", "Leases that ran out without a heartbeat", registry=r)
        self.connections_cut_total = Counter("connections_cut_total", "Connections that broke a limit", ("reason",), registry=r)
        self.auth_failures_total = Counter("auth_failures_total", "Requests refused by the token check", ("reason",), registry=r)
        self.rate_limited_total = Counter("rate_limited_total", "Requests refused by the rate limit", registry=r)

    def answered(self, method: str, route: str, code: int, seconds: float) -> None:
        """An HTTP request was answered after so many seconds."""
        child = self._answered.get((method, route, code))
        if child is None:
            child = self._answered[method, route, code] = self.http_request_seconds.labels(method=method, route=route, code=str(code))
        child.observe(seconds)

    def text(self) -> bytes:
        """All of it in the Prometheus text format."""
        return generate_latest(self.registry)

    async def watch_event_loop(self) -> None:
        """Measures the loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                due = loop.time() + _LAG_INTERVAL
                await asyncio.sleep(_LAG_INTERVAL)
                self.event_loop_lag_seconds.set(max(0.0, loop.time() - due))
