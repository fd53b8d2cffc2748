"""The platform as a service sees it: one object that registers it, finds others, keeps its configuration and answers for its health."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from groundwork import engines, logs
from groundwork.auth import ANONYMOUS, TokenVerifier
from groundwork.backends.base import DiscoverySource
from groundwork.backends.connect import Backends, connect
from groundwork.config.store import ConfigStore
from groundwork.consul.pacing import WatchOptions
from groundwork.discovery.balancer import LoadBalancer
from groundwork.discovery.client import DiscoveryClient
from groundwork.discovery.errors import NotLoaded
from groundwork.errors import InvalidSettings
from groundwork.health import Finding, HealthRegistry, Status
from groundwork.metrics import Metrics
from groundwork.registry.client import RegistryClient
from groundwork.registry.discovery import RestDiscovery
from groundwork.registry.lease import LeaseKeeper, LocalRegistrar, Registrar
from groundwork.registry.own import own_registration
from groundwork.registry.service import ServiceRegistry
from groundwork.settings import Settings, load
from groundwork.supervision import Make, Supervisor, Work

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

    from groundwork.web.guard import Guard

SHOWN = 5  # troubles or keys that one line of health names
T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)


class Platform:
    """What a service needs of the platform. Use it as `async with Platform.from_env(service="user-service") as p`.

    Inside the block the service is registered as soon as it answers on its port and is ready, and deregistered at the end. Nothing in
    it waits for Consul, the registry or an engine: a service starts without them and catches up.
    """

    def __init__(self, settings: Settings, *, configure_logs: bool = True) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.supervisor = Supervisor(registry=self.metrics.registry)
        self.health = HealthRegistry(service=settings.service, version=settings.version, metrics=self.metrics, supervisor=self.supervisor)
        self.supervisor.on_fatal(self.health.mark_broken)
        self.verifier = TokenVerifier(settings.auth.issuers) if settings.auth.issuers else None
        self._configure_logs = configure_logs
        self._stack = AsyncExitStack()
        self._work: list[Work] = []
        self._lease: LeaseKeeper | None = None
        self._keeping: Work | None = None
        self._overdue = False
        self._backends: Backends | None = None
        self._discovery: DiscoveryClient | None = None
        self._registry: ServiceRegistry | None = None
        self._config: ConfigStore | None = None
        self._balancers: dict[tuple[str, str], LoadBalancer] = {}

    @classmethod
    def from_env(cls, *, service: str | None = None, port: int | None = None) -> Self:
        """The platform by the mounted settings and the environment; arguments win.

        Raises InvalidSettings that names each bad key.
        """
        given = {"service": service, "http_port": port}
        return cls(load(**{key: value for key, value in given.items() if value is not None}))

    @property
    def backends(self) -> Backends:
        """The back end's views, for the platform's own services."""
        return _entered(self._backends)

    @property
    def discovery(self) -> DiscoveryClient:
        """Which instances the other services have."""
        return _entered(self._discovery)

    @property
    def config(self) -> ConfigStore:
        """The service's live configuration."""
        return _entered(self._config)

    def balancer(self, service: str, strategy: str = "p2c") -> LoadBalancer:
        """The one balancer of this process for a service, which prefers this process's zone. From the first call on the service is watched.

        Raises InvalidRequest for an unknown strategy.
        """
        known = self._balancers.get((service, strategy))
        if known is None:
            known = LoadBalancer(self.discovery, service, strategy, zone=self.settings.zone, registry=self.metrics.registry)
            self._balancers[(service, strategy)] = known
            with suppress(NotLoaded):  # the first answer is on its way
                self.discovery.snapshot(service)
        return known

    @property
    def registry(self) -> ServiceRegistry:
        """The registry in this process: the platform's own service, or the embedded one."""
        return _entered(self._registry)

    async def __aenter__(self) -> Self:
        settings = self.settings
        if self._configure_logs:
            logs.configure(settings.service, version=settings.version)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.supervisor.aclose)
            self._backends = await stack.enter_async_context(connect(settings, registry=self.metrics.registry))
            client: RegistryClient | None = None
            source = self._backends.discovery
            if settings.registry is not None:
                client = await stack.enter_async_context(RegistryClient(settings.registry.url, token_file=settings.registry.token_file))
                if self._backends.consul is None:
                    source = RestDiscovery(client)  # development: others are found where oneself is registered
            self._discovery = await stack.enter_async_context(self._discovery_client(source))
            self._config = await stack.enter_async_context(self._config_store(self._backends))
            stack.callback(self._wait_for_configuration(self._config).cancel)
            self._registry = ServiceRegistry(self._backends.registry, metrics=self.metrics, quota=settings.max_registrations)
            if self.verifier is not None:
                stack.push_async_callback(self.verifier.close)
            self._add_checks()
            self.health.start()
            stack.push_async_callback(self.health.stop)
            self.health.observe("background", self._background)
            stack.push_async_callback(self._stop_work)
            self.run(self.metrics.watch_event_loop, name="event-loop-lag")
            self._start_registration(client)
            stack.push_async_callback(self._leave)
            self._say_what_is_missing()
            self.health.mark_ready()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def run(self, work: Make | Coroutine[object, object, None], *, name: str) -> Work:
        """Run `work` in the background until the platform is left, `serve` returns, or the returned handle is closed.

        A function is called again, after a pause, however its work ends; health tells of it meanwhile. A coroutine runs once: it may
        return, and if it fails, the process is broken and gets restarted. Use the handle as `async with` where the work needs something
        that is closed before the platform is left.
        """
        if callable(work):
            started = self.supervisor.start(work, name=name)
        else:
            started = self.supervisor.start(lambda: work, name=name, endless=False, fatal=True)
        self._work = [*(known for known in self._work if not known.done), started]
        return started

    def router(self) -> APIRouter:
        """The health routes and `/metrics`, for an application of your own."""
        from groundwork.web.health import health_router, metrics_route  # noqa: PLC0415 - FastAPI is an extra

        router = health_router(self.health, self.guard(), self._details())
        metrics_route(router, self.metrics)
        return router

    def guard(self) -> Guard:
        """Who may call: by the issuers of the settings, or everybody while there are none."""
        from groundwork.web.guard import Guard  # noqa: PLC0415 - FastAPI is an extra

        return Guard(self.verifier, metrics=self.metrics, rate=self.settings.rate_limit_per_second)

    def app(self, title: str, *, description: str = "", body_limits: dict[str, int] | None = None) -> FastAPI:
        """A FastAPI application with health routes, RFC 9457 problems, request ids, access log and limits.

        `body_limits` by path prefix, in bytes; elsewhere `max_body_bytes` of the settings.
        """
        from groundwork.web.app import create_app  # noqa: PLC0415 - FastAPI is an extra

        settings, limits = self.settings, body_limits or {}
        return create_app(
            title,
            version=settings.version,
            description=description,
            health=self.health,
            metrics=self.metrics,
            guard=self.guard(),
            docs=settings.profile == "dev",
            details=self._details(),
            unavailable=engines.unavailable(settings),
            body_limit=lambda scope: next((n for prefix, n in limits.items() if scope["path"].startswith(prefix)), settings.max_body_bytes),
        )

    async def serve(self, app: FastAPI) -> None:
        """Serve `app` until SIGTERM, then leave in order: unready, deregistered, drained, finished, background work ended."""
        from groundwork.serving import serve  # noqa: PLC0415 - uvicorn is an extra

        try:
            await serve(app, self.settings, self.metrics, leave=self.drain)
        finally:
            await self._stop_work()  # before whatever it uses is closed around the caller's block

    async def drain(self) -> None:
        """Unready and deregistered at once; returns when clients had the time to notice."""
        await self._leave()
        await asyncio.sleep(self.settings.drain_seconds)

    async def _leave(self) -> None:
        self.health.mark_draining()
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            await keeping.aclose()
        if self._lease is not None:
            await self._lease.leave()

    def _details(self) -> str:
        wanted = self.settings.health_details or ("authorized" if self.settings.profile == "prod" else "always")
        return "never" if wanted == "authorized" and self.verifier is None else wanted

    def _discovery_client(self, source: DiscoverySource) -> DiscoveryClient:
        options = WatchOptions(start_jitter=0.0)
        return DiscoveryClient(source, options=options, registry=self.metrics.registry, supervisor=self.supervisor)

    def _config_store(self, backends: Backends) -> ConfigStore:
        settings = self.settings
        return ConfigStore(
            backends.config,
            settings.service,
            settings.profile,
            prefix=settings.config_prefix,
            secrets_dir=settings.secrets_dir,
            snapshot_file=settings.snapshot_file,
            registry=self.metrics.registry,
            supervisor=self.supervisor,
        )

    def _wait_for_configuration(self, config: ConfigStore) -> asyncio.TimerHandle:
        """Unready while a bound model waits for the first answer; what comes after the wait is the profile's choice."""

        def overdue() -> None:
            self._overdue = True
            if config.on_defaults:
                log.warning("no configuration could be read", consequence=self._configuration().text)
            self.health.refresh()

        config.on_loaded(self.health.refresh)
        self.health.observe("configuration", self._configuration)
        return asyncio.get_running_loop().call_later(self.settings.config_wait_seconds, overdue)

    def _configuration(self) -> Finding:
        config, settings = self.config, self.settings
        if config.on_defaults:
            if self._overdue and not settings.effective_fail_fast:
                return Finding(Status.WARN, "nothing could be read yet: the code's defaults are in force")
            return Finding(Status.FAIL, "nothing could be read yet: the service waits for its configuration")
        if problems := config.problems:
            return Finding(Status.WARN, f"rejected, so that what was before stays in force: {', '.join(sorted(problems)[:SHOWN])}")
        if config.age > settings.max_stale_seconds:
            return Finding(Status.WARN, "cannot be read now: what was read last stays in force")
        return Finding(Status.PASS)

    def _background(self) -> Finding:
        troubles = self.supervisor.troubles
        return Finding(Status.WARN if troubles else Status.PASS, "; ".join(troubles[:SHOWN]))

    def _add_checks(self) -> None:
        settings = self.settings
        for check, required in engines.checks(settings, self.backends.consul):
            self.health.add(check, critical=required, timeout=settings.check_timeout_seconds, ttl=settings.check_ttl_seconds)

    def _start_registration(self, client: RegistryClient | None) -> None:
        registrar: Registrar
        if client is not None:
            registrar = client
        elif self.backends.registry.name == "memory":
            registrar = LocalRegistrar(self.registry, ANONYMOUS)
            self.run(self.registry.run_sweeper, name="sweeper")
        else:
            return  # the platform's own services are found by their Kubernetes Service
        self._lease = LeaseKeeper(registrar, own_registration(self.settings), self.health, answers=self._answers)
        self._keeping = self.supervisor.start(self._lease.run, name="lease")

    async def _answers(self) -> bool:
        """Whether this service's own port is open."""
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_connection(self.settings.address, self.settings.http_port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    def _say_what_is_missing(self) -> None:
        if self.backends.registry.name == "memory":
            text = "the embedded back end: "
            text += (
                "configuration lives in this process only" if self.settings.registry else "registrations and configuration live in this process only"
            )
            self.health.notice("backend", text)
            log.warning("no Consul is configured", consequence=text)
        if self.verifier is None:
            log.warning("authentication is off", consequence="every caller may do everything")

    async def _stop_work(self) -> None:
        work, self._work = self._work, []
        await asyncio.gather(*(one.aclose() for one in work))


def _entered(part: T | None) -> T:
    if part is None:
        raise InvalidSettings("the platform is not running: use it inside `async with`")
    return part
