"""Asks instances with an HTTP check how they are. Only the replica that ends leases does it, and only where AddressPolicy allowed it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from groundwork.discovery.models import Status
from groundwork.registry.models import Registration, Stored

AT_ONCE = 32
TIMEOUT = 2.0  # seconds
FAILURES = 2  # in a row make an instance critical: one lost packet does not


@dataclass(slots=True)
class _State:
    due: float
    failures: int = 0


class Prober:
    """Remembers when each instance is due. GET, no header of a caller's, no redirect, the body is not read."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    async def look(self, stored: Iterable[Stored], now: float) -> dict[str, Status]:
        """The state of every instance that was due at `now`."""
        items = {item.record.service_id: item for item in stored if item.record.registration.check.type == "http"}
        for gone in self._states.keys() - items.keys():
            del self._states[gone]
        due = [item for service_id, item in items.items() if self._states.setdefault(service_id, _State(now)).due <= now]
        if not due:
            return {}
        limit = asyncio.Semaphore(AT_ONCE)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False, auto_decompress=False) as session:
            found = await asyncio.gather(*(self._one(session, limit, item, now) for item in due))
        return {service_id: status for service_id, status in found if status is not None}

    async def _one(self, session: aiohttp.ClientSession, limit: asyncio.Semaphore, item: Stored, now: float) -> tuple[str, Status | None]:
        wish = item.record.registration
        state = self._states[wish.service_id]
        state.due = now + wish.check.interval_seconds
        url = url_of(wish)
        if url is None:
            return wish.service_id, Status.CRITICAL
        try:
            async with limit, session.get(url, allow_redirects=False) as answer:
                status = Status.PASSING if 200 <= answer.status < 300 else Status.WARNING if answer.status == 429 else Status.CRITICAL
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            status = Status.CRITICAL
        if status is not Status.CRITICAL:
            state.failures = 0
            return wish.service_id, status
        state.failures += 1
        return wish.service_id, status if state.failures >= FAILURES else None


def url_of(wish: Registration) -> URL | None:
    """What to ask, built from the parsed address; None where there is none: a name could mean another host each time."""
    return None if wish.ip is None else URL.build(scheme="http", host=str(wish.ip), port=wish.port, path=wish.health_check)
