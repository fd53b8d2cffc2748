"""Keeps a service registered for as long as its process lives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from groundwork.auth import Principal
from groundwork.discovery.models import Status
from groundwork.errors import InstanceConflict, InstanceUnknown, PlatformError
from groundwork.health import HealthRegistry
from groundwork.health import Status as Health
from groundwork.registry.models import Registration
from groundwork.registry.service import ServiceRegistry

BEATS_PER_LEASE = 3
RETRY_MIN, RETRY_MAX = 0.25, 10.0  # seconds between two tries to register
GOODBYE_SECONDS = 3.0

_STATUS = {Health.PASS: Status.PASSING, Health.WARN: Status.WARNING, Health.FAIL: Status.CRITICAL}
log = structlog.stdlib.get_logger(__name__)


class Registrar(Protocol):
    """Where to register: the registry's REST API, or the registry in this process."""

    async def register(self, wish: Registration) -> None:
        """Register. Raises InstanceConflict and the other errors of the platform."""
        ...

    async def heartbeat(self, service_id: str, status: Status) -> None:
        """Renew the lease. Raises InstanceUnknown where the instance must register again."""
        ...

    async def deregister(self, service_id: str) -> None:
        """Forget the instance."""
        ...


class LocalRegistrar:
    """Registers with the registry in this process."""

    def __init__(self, registry: ServiceRegistry, caller: Principal) -> None:
        self._registry = registry
        self._caller = caller

    async def register(self, wish: Registration) -> None:
        """Register."""
        await self._registry.register(wish, self._caller)

    async def heartbeat(self, service_id: str, status: Status) -> None:
        """Renew the lease."""
        await self._registry.heartbeat(service_id, status, self._caller)

    async def deregister(self, service_id: str) -> None:
        """Forget the instance."""
        await self._registry.deregister(service_id, self._caller)


class LeaseKeeper:
    """Registers an instance once it answers and is ready, renews its lease, and registers it again whenever the registry has lost it."""

    def __init__(self, registrar: Registrar, wish: Registration, health: HealthRegistry, *, answers: Callable[[], Awaitable[bool]]) -> None:
        self._registrar = registrar
        self._wish = wish
        self._health = health
        self._answers = answers
        self._changed = asyncio.Event()
        self.registered = False
        health.on_change(self._changed.set)

    async def run(self) -> None:
        """Keep it registered until cancelled."""
        await self._until_ready()
        failures = 0
        while True:
            try:
                await self._beat()
                failures = 0
                pause = self._wish.check.ttl_seconds / BEATS_PER_LEASE * random.uniform(0.8, 1.0)  # noqa: S311 - spreads heartbeats, no secret
            except PlatformError as error:
                failures += 1
                pause = random.uniform(RETRY_MIN, min(RETRY_MAX, RETRY_MIN * 2.0 ** min(failures, 16)))  # noqa: S311
                log.warning("not registered now" if not self.registered else "heartbeat failed", error=type(error).__name__, detail=str(error))
            await self._sleep(pause)

    async def leave(self) -> None:
        """Deregister, within a few seconds: if the registry is away, the lease ends by itself. Cancel `run` first."""
        if not self.registered:
            return
        self.registered = False
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._registrar.deregister(self._wish.service_id)
            log.info("deregistered")
        except InstanceUnknown:
            pass
        except (PlatformError, TimeoutError) as error:
            log.warning("not deregistered; the lease will end by itself", error=type(error).__name__)

    async def _beat(self) -> None:
        if self.registered:
            self._changed.clear()
            try:
                await self._registrar.heartbeat(self._wish.service_id, _STATUS[self._health.ready().status])
            except InstanceUnknown:
                self.registered = False
                log.warning("the registry has forgotten this instance")
            else:
                return
        try:
            await self._registrar.register(self._wish)
        except InstanceConflict:
            # A predecessor with this id and another body, of the same owner or the registry refuses: it is gone, its lease is not yet.
            await self._registrar.deregister(self._wish.service_id)
            await self._registrar.register(self._wish)
        self.registered = True
        log.info("registered", instance=self._wish.service_id)

    async def _until_ready(self) -> None:
        """Others are sent here from the first moment on, so wait until there is somebody to answer."""
        while True:
            if self._health.ready().status is not Health.FAIL and await self._answers():
                return
            await asyncio.sleep(0.05)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but tell a change of readiness at once."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
