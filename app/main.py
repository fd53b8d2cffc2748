"""What each of the platform's services is made of."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware

from app.api import config, services
from app.api.changes import ChangeLog
from app.api.events import Streams
from app.api.shortcut import DiscoverShortcut
from groundwork import Platform
from groundwork.config.codec import MAX_VALUE
from groundwork.consul.hub import WatchHub
from groundwork.consul.metrics import consul_metrics
from groundwork.consul.pacing import CONFIG
from groundwork.errors import InvalidSettings
from groundwork.registry.policy import AddressPolicy
from groundwork.registry.reconciler import run_reconciler
from groundwork.settings import Settings

Role = Literal["registry", "config", "all"]
TITLES = {"registry": "Groundwork registry", "config": "Groundwork configuration", "all": "Groundwork"}

log = structlog.stdlib.get_logger(__name__)


def check(role: Role, settings: Settings) -> None:
    """Raises InvalidSettings for what production must not do."""
    if settings.profile != "prod":
        return
    if role == "all":
        raise InvalidSettings("profile is `prod`: start `registry` and `config` as services of their own; all in one process is for development")
    if not settings.auth.issuers:
        raise InvalidSettings("auth.issuers is empty in profile `prod`: name the issuer whose tokens are accepted")
    if settings.effective_backend != "consul":
        raise InvalidSettings("consul is not configured in profile `prod`: set `consul.address`")


@asynccontextmanager
async def application(role: Role, p: Platform) -> AsyncGenerator[FastAPI]:
    """The APIs of `role` on a running platform."""
    settings = p.settings
    app = p.app(TITLES[role], body_limits={config.PREFIX: MAX_VALUE})
    watches: WatchHub[tuple[config.ConfigEntry, ...]] = WatchHub(replace(CONFIG, start_jitter=0.0), consul_metrics(p.metrics.registry), p.supervisor)
    streams = Streams(per_caller=settings.max_streams_per_caller, total=settings.max_streams)
    if role != "config":
        api = services.ServicesApi(p.registry, p.discovery, p.health, AddressPolicy(settings.allowed_cidrs), streams)
        services.mount(app, api)
        app.user_middleware.insert(1, Middleware(DiscoverShortcut, api=api, guard=app.state.guard))  # inside of what counts and logs
        if p.backends.registry.name != "memory":  # the embedded one sweeps by itself
            p.run(p.registry.run_sweeper, name="sweeper")
            p.run(lambda: run_reconciler(p.backends.registry), name="reconciler")
    if role != "registry":
        prefix = settings.config_prefix
        config.mount(app, config.ConfigApi(p.backends.config, watches, p.health, prefix, streams, ChangeLog(prefix)))
    try:
        yield app
    finally:
        await watches.aclose()


async def run(role: Role, settings: Settings) -> None:
    """Serve the APIs of `role` until SIGTERM. Raises InvalidSettings before anything is started."""
    check(role, settings)
    async with Platform(settings) as p, application(role, p) as app:
        if settings.profile == "dev":
            log.info("docs", url=f"http://{settings.address}:{settings.http_port}/docs")
        await p.serve(app)
