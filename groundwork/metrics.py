"""The metrics of the runtime, by the names that dashboards and alerts use. One `Metrics` per process, nothing global."""

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
        self.http_in_flight = Gauge("http_in_flight", "HTTP requests being answered", registry=r)
        self.consul_request_seconds = Histogram(
            "consul_request_seconds", "Time of a request to Consul, blocking reads excepted", ("op", "code"), buckets=_FAST, registry=r
        )
        self.watch_lag_seconds = Gauge("watch_lag_seconds", "Seconds since Consul last answered the watch", ("query",), registry=r)
        self.watch_resets_total = Counter("watch_resets_total", "Times a watch began again because Consul's index fell", registry=r)
        self.snapshot_age_seconds = Gauge("snapshot_age_seconds", "Age of the last good answer about a service", ("service",), registry=r)
        self.lb_picks_total = Counter("lb_picks_total", "Instances picked by the balancer", ("service", "strategy"), registry=r)
        self.lb_ejected = Gauge("lb_ejected", "Instances that the balancer leaves out now", ("service",), registry=r)
        self.config_generation = Gauge("config_generation", "Generation of the configuration in force", registry=r)
        self.config_rejected_total = Counter("config_rejected_total", "Configuration values refused; the ones before stay in force", registry=r)
        self.health_check_status = Gauge("health_check_status", "State of a check: 0 pass, 1 warn, 2 fail", ("check",), registry=r)
        self.event_loop_lag_seconds = Gauge("event_loop_lag_seconds", "How late the event loop ran a timer, the last time", registry=r)
        self.registrations = Gauge("registrations", "Instances in the registry", ("status",), registry=r)
        self.leases_expired_total = Counter("leases_expired_total", "Leases that ran out without a heartbeat", registry=r)
        self.auth_failures_total = Counter("auth_failures_total", "Requests refused by the token check", ("reason",), registry=r)
        self.rate_limited_total = Counter("rate_limited_total", "Requests refused by the rate limit", registry=r)

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
