"""Keeps a service registered for as long as its process lives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from groundwork.auth import Principal
from groundwork.discovery.models import Status
from groundwork.errors import InstanceConflict, InstanceUnknown, PlatformError, RateLimited
from groundwork.health import HealthRegistry
from groundwork.health import Status as Health
from groundwork.registry.models import Registration
from groundwork.registry.service import ServiceRegistry

BEATS_PER_LEASE = 3
RETRY_MIN, RETRY_MAX = 0.25, 10.0  # seconds between two tries
RETRY_AFTER_MAX = 60.0  # seconds: whoever asks for more would make the lease end for nothing
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


def beat_pause(ttl: float, spread: random.Random) -> float:
    """Seconds between two heartbeats: one of them may be lost, and then another one, before the lease ends."""
    return ttl / BEATS_PER_LEASE * spread.uniform(0.8, 1.0)


def retry_pause(failures: int, error: PlatformError, spread: random.Random) -> float:
    """Seconds before the next try after so many failures in a row: longer each time, as long as the registry asks for, and never in step."""
    pause = spread.uniform(RETRY_MIN, min(RETRY_MAX, RETRY_MIN * 2.0 ** min(failures, 16)))
    asked = min(error.retry_after or 0.0, RETRY_AFTER_MAX) if isinstance(error, RateLimited) else 0.0
    return max(pause, asked * spread.uniform(1.0, 1.2))


class LeaseKeeper:
    """Registers an instance once it answers and is ready, renews its lease, and registers it again whenever the registry has lost it."""

    def __init__(
        self,
        registrar: Registrar,
        wish: Registration,
        health: HealthRegistry,
        *,
        answers: Callable[[], Awaitable[bool]],
        spread: random.Random | None = None,
    ) -> None:
        self._registrar = registrar
        self._wish = wish
        self._health = health
        self._answers = answers
        self._spread = spread or random.SystemRandom()
        self._changed = asyncio.Event()
        self._registered = False
        self._known = False  # whether the registry may know the instance: a register that was cut off may have been done
        health.on_change(self._changed.set)

    async def run(self) -> None:
        """Keep it registered until cancelled."""
        failures = 0
        while True:
            self._changed.clear()
            try:
                await self._keep()
            except PlatformError as error:
                failures += 1
                pause = retry_pause(failures, error, self._spread)
                told = "heartbeat failed" if self._registered else "not registered now"
                log.warning(told, error=type(error).__name__, detail=str(error), again_in=round(pause, 3))
                await asyncio.sleep(pause)  # not even a change of readiness makes it faster: a registry that is away is not to be overrun
            else:
                failures = 0
                await self._sleep(beat_pause(self._wish.check.ttl_seconds, self._spread))

    async def leave(self) -> None:
        """Deregister, within a few seconds: if the registry is away, the lease ends by itself. Stop `run` first."""
        if not self._known:
            return
        self._registered = self._known = False
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._registrar.deregister(self._wish.service_id)
            log.info("deregistered")
        except InstanceUnknown:
            pass
        except (PlatformError, TimeoutError) as error:
            log.warning("not deregistered; the lease will end by itself", error=type(error).__name__)

    async def _keep(self) -> None:
        """One heartbeat, or a registration where there is none to renew."""
        if self._registered:
            try:
                await self._registrar.heartbeat(self._wish.service_id, self._status())
            except InstanceUnknown:
                self._registered = False
                log.warning("the registry has forgotten this instance")
            else:
                return
        await self._until_ready()
        self._known = True
        try:
            await self._registrar.register(self._wish)
        except InstanceConflict:
            # A predecessor with this id and another body, of the same owner or the registry refuses: it is gone, its lease is not yet.
            await self._registrar.deregister(self._wish.service_id)
            await self._registrar.register(self._wish)
        self._registered = True
        log.info("registered", instance=self._wish.service_id)
        if self._status() is not Status.PASSING:  # which is what the registry believes of a newcomer
            await self._registrar.heartbeat(self._wish.service_id, self._status())

    def _status(self) -> Status:
        return _STATUS[self._health.ready().status]

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
