"""The registry's rules, the same for every back end: who may, what counts as equal, when a lease is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from groundwork.auth import Principal
from groundwork.auth.principal import REGISTRY_ADMIN
from groundwork.backends.registry import RegistryBackend
from groundwork.discovery.models import Status
from groundwork.errors import (
    BackendUnavailable,
    Conflict,
    InstanceAmbiguous,
    InstanceConflict,
    InstanceUnknown,
    NotOwner,
    PlatformError,
    QuotaExceeded,
)
from groundwork.metrics import Metrics
from groundwork.registry.models import Listing, Record, Registration, Stored
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
    """Registers instances, renews and ends their leases. Several of them may work on one back end at the same time.

    `quota` bounds how many instances one caller may have, so that no tenant fills what all of them share.
    """

    def __init__(
        self, backend: RegistryBackend, *, metrics: Metrics | None = None, clock: Callable[[], float] | None = None, quota: int | None = None
    ) -> None:
        self.backend = backend
        self._metrics = metrics
        self._clock = clock
        self._quota = quota
        self._seen: dict[str, tuple[int, float]] = {}
        self._unreadable: frozenset[str] = frozenset()
        self._probed: tuple[Stored, ...] = ()
        self._prober = Prober()

    async def register(self, wish: Registration, caller: Principal) -> Registered:
        """Register an instance, all of it or nothing.

        Raises NotOwner for somebody else's service name, InstanceConflict where the id is taken by another owner or another body,
        QuotaExceeded.
        """
        _check_service(caller, wish.service_name)
        now = _now()
        record = Record(registration=wish, owner=caller.subject, issuer=caller.issuer, registered_at=now, renewed_at=now)
        for attempt in range(ATTEMPTS):
            known = await self.backend.get(wish.service_name, wish.service_id)
            try:
                if known is None:
                    await self._check_quota(caller, wish.service_name)
                    return Registered(await self.backend.create(record), created=True)
                if not _made(caller, known.record):
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

    async def heartbeat(self, service_id: str, status: Status, caller: Principal, *, service: str | None = None) -> Stored:
        """Renew the lease and tell the instance's state. `service` is needed only by who owns several.

        Raises InstanceUnknown where it is not registered (any more), NotOwner, InstanceAmbiguous.
        """
        return await self._change(service_id, caller, service, lambda record: _renewed(record, status))

    async def maintenance(self, service_id: str, reason: str | None, caller: Principal, *, service: str | None = None) -> Stored:
        """Take the instance out of service for `reason`, or back in with None. Its lease goes on.

        Raises InstanceUnknown, NotOwner, InstanceAmbiguous.
        """
        return await self._change(service_id, caller, service, lambda record: record.changed(maintenance=reason))

    async def deregister(self, service_id: str, caller: Principal, *, service: str | None = None) -> None:
        """Forget the instance.

        Raises InstanceUnknown, NotOwner, InstanceAmbiguous.
        """
        for _ in range(ATTEMPTS):
            known = await self._owned(service_id, caller, service)
            try:
                await self.backend.remove(known)
            except Conflict:
                continue
            return
        raise Conflict(f"{service_id} changes faster than it can be removed: try again")

    async def page(self, after: str = "", limit: int = 1000) -> Listing:
        """What is registered, by service and id, from `after` on."""
        return await self.backend.page(after, limit)

    async def sweep(self) -> None:
        """End the leases that nobody renewed: first critical, then forgotten. Only one replica does it; a second one would do no harm.

        Time is measured here, by a monotonic clock, from the moment a record was first seen unchanged: no clock of another machine
        counts, and after a change of sweeper a lease lives at most one more period.
        """
        if not await self.backend.lead():
            self._seen.clear()
            self._probed = ()
            return
        now = self._now()
        listing = await self.backend.list()
        for gone in self._seen.keys() - {item.record.name for item in listing.stored}:
            del self._seen[gone]
        self._probed = tuple(item for item in listing.stored if item.record.registration.check.type == "http")
        self._count(listing)
        for item in listing.stored:
            index, since = self._seen.setdefault(item.record.name, (item.index, now))
            if index != item.index:
                self._seen[item.record.name] = (item.index, now)
                continue
            try:
                await self._end(item, now - since, now)
            except BackendUnavailable:
                raise
            except PlatformError as error:  # of this one record: the others end all the same
                log.warning("lease not ended", record=item.record.name, error=type(error).__name__)

    async def probe(self) -> None:
        """Ask the instances with an HTTP check that are due, and wait until all of them have answered or not."""
        await asyncio.gather(*(self._ask(item) for item in self._prober.due(self._probed, self._now())))

    async def run_sweeper(self) -> None:
        """End leases and ask instances until cancelled. Neither waits for the other: a silent target must not keep leases from ending."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep_on(), name="ends leases")
            while True:
                for item in self._prober.due(self._probed, self._now()):
                    group.create_task(self._ask(item), name=f"asks {item.record.name}")
                await asyncio.sleep(SWEEP_SECONDS)

    async def _sweep_on(self) -> None:
        while True:
            try:
                await self.sweep()
            except PlatformError as error:
                self._seen.clear()  # while the back end was away nobody could renew: everyone gets a full period again
                log.warning("sweep failed", error=type(error).__name__)
            await asyncio.sleep(SWEEP_SECONDS)

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()

    async def _end(self, item: Stored, quiet: float, now: float) -> None:
        record = item.record
        check = record.registration.check
        try:
            if check.type == "ttl" and not record.lapsed and quiet >= check.ttl_seconds:
                ended = await self.backend.replace(item, record.changed(lapsed=True, status=Status.CRITICAL))
                self._seen[record.name] = (ended.index, now)
                log.warning("lease ended", service=record.registration.service_name, instance=record.service_id)
                if self._metrics is not None:
                    self._metrics.leases_expired_total.inc()
            elif record.lapsed and quiet >= check.deregister_after_seconds:
                await self.backend.remove(item)
                log.warning("instance forgotten", service=record.registration.service_name, instance=record.service_id)
        except Conflict:
            pass  # a heartbeat was faster, as it should be

    async def _ask(self, item: Stored) -> None:
        """Ask one instance, and write down what is news."""
        status = await self._prober.ask(item)
        if status is None:
            return
        wish = item.record.registration
        try:
            known = await self.backend.get(wish.service_name, wish.service_id)
            if known is None or known.record.status is status or known.record.registration != wish:
                return
            with suppress(Conflict):  # the next check will tell
                await self.backend.replace(known, known.record.changed(status=status, lapsed=status is Status.CRITICAL))
        except PlatformError as error:
            log.warning("check not written down", record=item.record.name, error=type(error).__name__)

    async def _change(self, service_id: str, caller: Principal, service: str | None, change: Callable[[Record], Record]) -> Stored:
        for _ in range(ATTEMPTS):
            known = await self._owned(service_id, caller, service)
            try:
                return await self.backend.replace(known, change(known.record))
            except Conflict:
                continue
        raise Conflict(f"{service_id} changes faster than it can be written: try again")

    async def _owned(self, service_id: str, caller: Principal, service: str | None) -> Stored:
        """The caller's instance of that id."""
        service = service or (None if _all_services(caller) else caller.service)
        if service is not None:
            _check_service(caller, service)
            one = await self.backend.get(service, service_id)
            found: tuple[Stored, ...] = () if one is None else (one,)
        elif _all_services(caller):
            found = await self.backend.find(service_id)
        else:
            raise NotOwner(f"{caller.subject} owns no service: a service's name is that of its ServiceAccount")
        if not found:
            raise InstanceUnknown(f"instance {service_id} is not registered: register it again")
        known, *others = found
        if others:
            names = ", ".join(one.record.registration.service_name for one in found[:5])
            raise InstanceAmbiguous(f"several services have an instance {service_id}: say by service_name which one ({names})")
        if not _made(caller, known.record):
            raise NotOwner(f"instance {service_id} was registered by another subject")
        return known

    async def _check_quota(self, caller: Principal, service: str) -> None:
        if self._quota is None or _all_services(caller):
            return
        if await self.backend.count(service) >= self._quota:  # whoever is not an admin owns this one service
            raise QuotaExceeded(f"{service} has {self._quota} instances, the most that it may have: deregister some, or raise max_registrations")

    def _count(self, listing: Listing) -> None:
        unreadable = frozenset(listing.unreadable)
        if unreadable != self._unreadable and unreadable:
            log.error("records cannot be read and are left alone", count=len(unreadable), names=sorted(unreadable)[:10])
        self._unreadable = unreadable
        if self._metrics is None:
            return
        self._metrics.records_unreadable.set(len(unreadable))
        for status in Status:
            self._metrics.registrations.labels(status=status.value).set(sum(item.record.effective_status is status for item in listing.stored))


def _renewed(record: Record, status: Status) -> Record:
    return record.changed(renewed_at=_now(), renewals=record.renewals + 1, status=status, lapsed=False)


def _all_services(caller: Principal) -> bool:
    return caller.everything or caller.may(REGISTRY_ADMIN)


def _made(caller: Principal, record: Record) -> bool:
    """Whether the record is the caller's own. Records of the version that did not write down who vouched for their owner go by its name."""
    return _all_services(caller) or (record.owner == caller.subject and record.issuer in {"", caller.issuer})


def _check_service(caller: Principal, service_name: str) -> None:
    if not caller.owns(service_name):
        raise NotOwner(f"{caller.subject} does not own service {service_name}: a service's name is that of its ServiceAccount")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
