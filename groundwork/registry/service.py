"""The registry's rules, the same for every back end: who may, what counts as equal, when a lease is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from groundwork.auth import Principal
from groundwork.backends.registry import RegistryBackend
from groundwork.discovery.models import Status
from groundwork.errors import Conflict, InstanceConflict, InstanceUnknown, NotOwner, PlatformError
from groundwork.metrics import Metrics
from groundwork.registry.models import Record, Registration, Stored
from groundwork.registry.prober import Prober

ATTEMPTS = 8  # of a write that loses against others; each loss means that another one won
SWEEP_SECONDS = 1.0

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Registered:
    """The outcome of a registration. `created` False: exactly this instance was registered already; its lease is renewed."""

    stored: Stored
    created: bool


class ServiceRegistry:
    """Registers instances, renews and ends their leases. Several of them may work on one back end at the same time."""

    def __init__(self, backend: RegistryBackend, *, metrics: Metrics | None = None, clock: Callable[[], float] | None = None) -> None:
        self.backend = backend
        self._metrics = metrics
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._prober = Prober()

    async def register(self, wish: Registration, caller: Principal) -> Registered:
        """Register an instance, all of it or nothing.

        Raises NotOwner for somebody else's service name, InstanceConflict where the id is taken by another owner or another body.
        """
        _check_owner(caller, wish.service_name)
        now = _now()
        record = Record(registration=wish, owner=caller.subject, registered_at=now, renewed_at=now)
        for attempt in range(ATTEMPTS):
            known = await self.backend.get(wish.service_id)
            try:
                if known is None:
                    return Registered(await self.backend.create(record), created=True)
                if known.record.owner != caller.subject:
                    raise InstanceConflict("owned by another subject")
                if known.record.registration == wish:
                    if attempt > 0 and not known.record.lapsed:
                        return Registered(known, created=False)  # an equal request has just renewed it
                    return Registered(await self.backend.replace(known, _renewed(known.record, Status.PASSING)), created=False)
                if not known.record.lapsed:
                    raise InstanceConflict("registered with another body: deregister it first or use another id")
                return Registered(await self.backend.replace(known, record), created=True)  # a lapsed lease does not bind its owner
            except InstanceConflict:
                raise
            except Conflict:
                continue  # somebody was faster: look again
        raise InstanceConflict("too many registrations of this id at once")

    async def heartbeat(self, service_id: str, status: Status, caller: Principal) -> Stored:
        """Renew the lease and tell the instance's state.

        Raises InstanceUnknown where it is not registered (any more), NotOwner.
        """
        return await self._change(service_id, caller, lambda record: _renewed(record, status))

    async def maintenance(self, service_id: str, reason: str | None, caller: Principal) -> Stored:
        """Take the instance out of service for `reason`, or back in with None. Its lease goes on.

        Raises InstanceUnknown, NotOwner.
        """
        return await self._change(service_id, caller, lambda record: record.changed(maintenance=reason))

    async def deregister(self, service_id: str, caller: Principal) -> None:
        """Forget the instance.

        Raises InstanceUnknown, NotOwner.
        """
        for _ in range(ATTEMPTS):
            known = await self._owned(service_id, caller)
            try:
                await self.backend.remove(known)
            except Conflict:
                continue
            return
        raise Conflict(f"{service_id} changes faster than it can be removed: try again")

    async def instances(self) -> tuple[Stored, ...]:
        """Everything registered, by id."""
        return await self.backend.list()

    async def sweep(self) -> None:
        """End the leases that nobody renewed: first critical, then forgotten. Only one replica does it; a second one would do no harm.

        Time is measured here, by a monotonic clock, from the moment a record was first seen unchanged: no clock of another machine
        counts, and after a change of sweeper a lease lives at most one more period.
        """
        if not await self.backend.lead():
            self._seen.clear()
            return
        now = self._clock() if self._clock is not None else asyncio.get_running_loop().time()
        stored = await self.backend.list()
        for gone in self._seen.keys() - {item.record.service_id for item in stored}:
            del self._seen[gone]
        self._count(stored)
        for item in stored:
            index, since = self._seen.setdefault(item.record.service_id, (item.index, now))
            if index != item.index:
                self._seen[item.record.service_id] = (item.index, now)
                continue
            await self._end(item, now - since, now)
        for service_id, status in (await self._prober.look(stored, now)).items():
            await self._found(service_id, status)

    async def run_sweeper(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except PlatformError as error:
                self._seen.clear()  # while the back end was away nobody could renew: everyone gets a full period again
                log.warning("sweep failed", error=type(error).__name__)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _end(self, item: Stored, quiet: float, now: float) -> None:
        record = item.record
        check = record.registration.check
        try:
            if check.type == "ttl" and not record.lapsed and quiet >= check.ttl_seconds:
                ended = await self.backend.replace(item, record.changed(lapsed=True, status=Status.CRITICAL))
                self._seen[record.service_id] = (ended.index, now)
                log.warning("lease ended", service=record.registration.service_name, instance=record.service_id)
                if self._metrics is not None:
                    self._metrics.leases_expired_total.inc()
            elif record.lapsed and quiet >= check.deregister_after_seconds:
                await self.backend.remove(item)
                log.warning("instance forgotten", service=record.registration.service_name, instance=record.service_id)
        except Conflict:
            pass  # a heartbeat was faster, as it should be

    async def _found(self, service_id: str, status: Status) -> None:
        """Write down what an HTTP check found, where it is news."""
        known = await self.backend.get(service_id)
        if known is None or known.record.status is status:
            return
        with suppress(Conflict):  # the next check will tell
            await self.backend.replace(known, known.record.changed(status=status, lapsed=status is Status.CRITICAL))

    async def _change(self, service_id: str, caller: Principal, change: Callable[[Record], Record]) -> Stored:
        for _ in range(ATTEMPTS):
            known = await self._owned(service_id, caller)
            try:
                return await self.backend.replace(known, change(known.record))
            except Conflict:
                continue
        raise Conflict(f"{service_id} changes faster than it can be written: try again")

    async def _owned(self, service_id: str, caller: Principal) -> Stored:
        known = await self.backend.get(service_id)
        if known is None:
            raise InstanceUnknown(f"instance {service_id} is not registered: register it again")
        _check_owner(caller, known.record.registration.service_name)
        return known

    def _count(self, stored: tuple[Stored, ...]) -> None:
        if self._metrics is None:
            return
        for status in Status:
            self._metrics.registrations.labels(status=status.value).set(sum(item.record.effective_status is status for item in stored))


def _renewed(record: Record, status: Status) -> Record:
    return record.changed(renewed_at=_now(), renewals=record.renewals + 1, status=status, lapsed=False)


def _check_owner(caller: Principal, service_name: str) -> None:
    if not caller.owns(service_name):
        raise NotOwner(f"{caller.subject} does not own service {service_name}: a service's name is that of its ServiceAccount")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
