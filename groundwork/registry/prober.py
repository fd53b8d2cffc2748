"""Asks instances with an HTTP check how they are. Only the replica that ends leases does it, and only where AddressPolicy allowed it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from groundwork.discovery.models import Status
from groundwork.registry.models import Registration, Stored

AT_ONCE = 64
AT_ONCE_PER_SERVICE = 8  # so that the silent instances of one service do not keep those of the others waiting
TIMEOUT = 2.0  # seconds
FAILURES = 2  # in a row make an instance critical: one lost packet does not


@dataclass(slots=True)
class _State:
    due: float
    failures: int = 0
    asking: bool = False


class Prober:
    """Remembers when each instance is due. GET, no header of a caller's, no redirect, the body is not read."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._all = asyncio.Semaphore(AT_ONCE)
        self._services: dict[str, asyncio.Semaphore] = {}

    def due(self, stored: Iterable[Stored], now: float) -> list[Stored]:
        """Those of `stored`, which are all that there are, that must be asked now and are not being asked."""
        items = {item.record.name: item for item in stored}
        for gone in self._states.keys() - items.keys():
            del self._states[gone]
        services = {item.record.registration.service_name for item in items.values()}
        for name in self._services.keys() - services:
            del self._services[name]
        found: list[Stored] = []
        for name, item in items.items():
            state = self._states.setdefault(name, _State(now))
            if state.due <= now and not state.asking:
                state.due, state.asking = now + item.record.registration.check.interval_seconds, True
                found.append(item)
        return found

    async def ask(self, item: Stored) -> Status | None:
        """How an instance that was due is; None while a failure may have been chance."""
        wish = item.record.registration
        state = self._states.get(item.record.name) or _State(0.0)  # gone meanwhile
        try:
            async with self._services.setdefault(wish.service_name, asyncio.Semaphore(AT_ONCE_PER_SERVICE)), self._all:
                status = await _ask(wish)
        finally:
            state.asking = False
        if status is not Status.CRITICAL:
            state.failures = 0
            return status
        state.failures += 1
        return status if state.failures >= FAILURES else None


def url_of(wish: Registration) -> URL | None:
    """What to ask, built from the parsed address; None where there is none: a name could mean another host each time."""
    return None if wish.ip is None else URL.build(scheme="http", host=str(wish.ip), port=wish.port, path=wish.health_check)


async def _ask(wish: Registration) -> Status:
    url = url_of(wish)
    if url is None:
        return Status.CRITICAL
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    connector = aiohttp.TCPConnector(force_close=True)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False, auto_decompress=False) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            return Status.PASSING if 200 <= answer.status < 300 else Status.WARNING if answer.status == 429 else Status.CRITICAL
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return Status.CRITICAL
