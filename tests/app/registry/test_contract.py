"""What every back end of the registry must keep, whatever stands behind it."""

from __future__ import annotations

import asyncio

import pytest

from groundwork.auth import ANONYMOUS, Principal
from groundwork.backends.base import ServiceQuery
from groundwork.backends.registry import RegistryBackend
from groundwork.discovery.models import Instance, Status
from groundwork.errors import Conflict, InstanceAmbiguous, InstanceConflict, InstanceUnknown, NotOwner, PlatformError, QuotaExceeded
from groundwork.registry.models import Registration
from groundwork.registry.service import Registered, ServiceRegistry
from groundwork.testing.contract import SourceContract, unique
from tests.app.registry.backends import Clock, Kind, backend, leads, real_consul, tenant, wish

__all__ = ["TestSources", "backend", "real_consul"]


class TestSources(SourceContract):
    """Discovery and configuration read the same from all of them."""


async def seen(backend: Kind, service: str) -> tuple[Instance, ...]:
    """What discovery tells."""
    return (await backend.discovery.service(ServiceQuery(service))(consistent=True)).value


async def tries(registry: ServiceRegistry, wishes: list[Registration]) -> list[Registered | PlatformError]:
    """All of them at once."""

    async def one(wanted: Registration) -> Registered | PlatformError:
        try:
            return await registry.register(wanted, ANONYMOUS)
        except PlatformError as error:
            return error

    return await asyncio.gather(*(one(wanted) for wanted in wishes))


async def test_r25_of_fifty_different_registrations_of_one_id_exactly_one_wins(backend: Kind) -> None:
    service = unique("race")
    found = await tries(backend.registry, [wish(service, service, port=8000 + n) for n in range(50)])
    assert sum(isinstance(one, Registered) and one.created for one in found) == 1
    assert sum(isinstance(one, InstanceConflict) for one in found) == 49
    assert len(await seen(backend, service)) == 1


async def test_r25_of_fifty_equal_registrations_one_creates_and_all_succeed(backend: Kind) -> None:
    service = unique("retry")
    found = await tries(backend.registry, [wish(service, service)] * 50)
    assert all(isinstance(one, Registered) for one in found)
    assert sum(isinstance(one, Registered) and one.created for one in found) == 1


async def test_r25_ten_subjects_of_one_service_leave_one_owner_of_an_id(backend: Kind) -> None:
    service, registry = unique("owners"), backend.registry

    async def one(subject: str) -> bool:
        try:
            return (await registry.register(wish(service, service), tenant(service, subject=subject))).created
        except InstanceConflict:
            return False

    assert sum(await asyncio.gather(*(one(f"subject-{n}") for n in range(10)))) == 1


async def test_r51_two_services_may_have_an_instance_of_one_id_and_neither_touches_the_other_s(backend: Kind) -> None:
    first, second, registry = unique("first"), unique("second"), backend.registry
    for service in (first, second):
        assert (await registry.register(wish(service, "one"), tenant(service))).created
    await registry.heartbeat("one", Status.CRITICAL, tenant(first))
    assert [(one.id, one.status) for one in await seen(backend, first)] == [("one", Status.CRITICAL)]
    assert [(one.id, one.status) for one in await seen(backend, second)] == [("one", Status.PASSING)]
    await registry.maintenance("one", "disk", tenant(second))
    await registry.deregister("one", tenant(first))
    assert await seen(backend, first) == ()
    assert [one.status for one in await seen(backend, second)] == [Status.MAINTENANCE]
    await registry.deregister("one", tenant(second))


async def test_r51_whoever_may_change_both_must_say_which(backend: Kind) -> None:
    first, second, shared, registry = unique("first"), unique("second"), unique("shared"), backend.registry
    for service in (first, second):
        await registry.register(wish(service, shared), tenant(service))
    with pytest.raises(InstanceAmbiguous, match="service_name"):
        await registry.deregister(shared, ANONYMOUS)
    await registry.deregister(shared, ANONYMOUS, service=first)
    assert await seen(backend, first) == ()
    await registry.deregister(shared, ANONYMOUS)  # one is left
    assert await seen(backend, second) == ()


async def test_r26_a_heartbeat_for_an_unknown_id_says_register_again(backend: Kind) -> None:
    with pytest.raises(InstanceUnknown, match="register it again"):
        await backend.registry.heartbeat(unique("nobody"), Status.PASSING, ANONYMOUS)


async def test_r26_a_lease_ends_at_its_ttl_and_not_before(backend: Kind) -> None:
    service, registry = unique("lease"), await backend.leading()
    await registry.register(wish(service, service, ttl="30s"), ANONYMOUS)
    await registry.sweep()
    backend.clock.now += 29.999
    await registry.sweep()
    assert [one.status for one in await seen(backend, service)] == [Status.PASSING]
    backend.clock.now += 0.001
    await registry.sweep()
    assert [one.status for one in await seen(backend, service)] == [Status.CRITICAL]


async def test_r26_a_late_heartbeat_brings_the_instance_back(backend: Kind) -> None:
    service, registry = unique("late"), await backend.leading()
    await registry.register(wish(service, service, ttl="30s"), ANONYMOUS)
    await registry.sweep()
    backend.clock.now += 30.001
    await registry.sweep()
    await registry.heartbeat(service, Status.PASSING, ANONYMOUS)
    assert [one.status for one in await seen(backend, service)] == [Status.PASSING]


async def test_r26_an_instance_that_stays_silent_is_forgotten(backend: Kind) -> None:
    service, registry = unique("silent"), await backend.leading()
    await registry.register(wish(service, service, ttl="30s", deregister_after="60s"), ANONYMOUS)
    for seconds in (0, 30, 59):
        backend.clock.now += seconds
        await registry.sweep()
    assert len(await seen(backend, service)) == 1
    backend.clock.now += 1
    await registry.sweep()
    assert await seen(backend, service) == ()
    with pytest.raises(InstanceUnknown):
        await registry.heartbeat(service, Status.PASSING, ANONYMOUS)


async def test_heartbeats_keep_a_lease_for_ever(backend: Kind) -> None:
    service, registry = unique("beats"), await backend.leading()
    await registry.register(wish(service, service, ttl="30s"), ANONYMOUS)
    for _ in range(10):
        await registry.sweep()
        backend.clock.now += 29
        await registry.heartbeat(service, Status.PASSING, ANONYMOUS)
    await registry.sweep()
    assert [one.status for one in await seen(backend, service)] == [Status.PASSING]


async def test_a_heartbeat_that_changes_nothing_wakes_nobody(backend: Kind) -> None:
    service, registry = unique("quiet"), backend.registry
    await registry.register(wish(service, service), ANONYMOUS)
    read = backend.discovery.service(ServiceQuery(service))
    before = await read(consistent=True)
    await registry.heartbeat(service, Status.PASSING, ANONYMOUS)
    after = await read(consistent=True)
    assert after.index == before.index


@pytest.mark.parametrize(("told", "status"), [(Status.WARNING, Status.WARNING), (Status.CRITICAL, Status.CRITICAL)])
async def test_a_heartbeat_tells_how_the_instance_feels(backend: Kind, told: Status, status: Status) -> None:
    service = unique("feels")
    await backend.register(service, service, status=told)
    assert [one.status for one in await seen(backend, service)] == [status]


async def test_maintenance_hides_an_instance_and_ends(backend: Kind) -> None:
    service, registry = unique("maintained"), backend.registry
    await registry.register(wish(service, service), ANONYMOUS)
    await registry.maintenance(service, "disk", ANONYMOUS)
    assert [one.status for one in await seen(backend, service)] == [Status.MAINTENANCE]
    await registry.heartbeat(service, Status.PASSING, ANONYMOUS)
    assert [one.status for one in await seen(backend, service)] == [Status.MAINTENANCE]
    await registry.maintenance(service, None, ANONYMOUS)
    assert [one.status for one in await seen(backend, service)] == [Status.PASSING]


async def test_r27_deregistering_twice_is_unknown_the_second_time(backend: Kind) -> None:
    service, registry = unique("twice"), backend.registry
    await registry.register(wish(service, service), ANONYMOUS)
    await registry.deregister(service, ANONYMOUS)
    assert await seen(backend, service) == ()
    with pytest.raises(InstanceUnknown):
        await registry.deregister(service, ANONYMOUS)


async def test_r27_whoever_wins_between_register_and_deregister_record_and_catalog_agree(backend: Kind) -> None:
    registry = backend.registry
    for _ in range(5):
        service = unique("both")
        await registry.register(wish(service, service), ANONYMOUS)
        await asyncio.gather(registry.deregister(service, ANONYMOUS), registry.register(wish(service, service), ANONYMOUS), return_exceptions=True)
        recorded = await backend.records.get(service, service)
        assert (recorded is None) == (await seen(backend, service) == ())


async def test_r28_only_one_replica_ends_leases_and_the_other_takes_over(backend: Kind) -> None:
    if backend.name == "memory":
        pytest.skip("the embedded back end has one process")
    first, second = backend.records, backend.again
    assert await leads(first)
    assert not await second.lead()
    await first.close()
    assert await leads(second)


class Leading:
    """A back end whose every replica believes to lead."""

    def __init__(self, inner: RegistryBackend) -> None:
        self.name, self.get, self.list, self.create = inner.name, inner.get, inner.list, inner.create
        self.find, self.count, self.page = inner.find, inner.count, inner.page
        self.replace, self.remove, self.reconcile, self.close = inner.replace, inner.remove, inner.reconcile, inner.close

    async def lead(self) -> bool:
        return True


async def test_r28_two_sweepers_at_once_end_a_lease_once(backend: Kind) -> None:
    """The lock is advice only: even if both believe to lead, compare-and-set ends the lease exactly once."""
    service = unique("double")
    clock = Clock()

    sweepers = [ServiceRegistry(Leading(one), clock=clock) for one in (backend.records, backend.again)]
    await sweepers[0].register(wish(service, service, ttl="30s", deregister_after="60s"), ANONYMOUS)
    for _ in range(4):
        await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
        clock.now += 61
    assert await seen(backend, service) == ()
    assert await backend.records.get(service, service) is None


@pytest.mark.parametrize("other", ["another service", "another subject", "another issuer", "nobody's service"])
async def test_r43_nobody_touches_anothers_instance(backend: Kind, other: str) -> None:
    service, registry = unique("owned"), backend.registry
    owner = tenant(service)
    caller = {
        "another service": tenant(unique("other")),
        "another subject": tenant(service, subject="somebody-else"),
        "another issuer": tenant(service, issuer="elsewhere"),
        "nobody's service": Principal(owner.subject, issuer="elsewhere", scopes=owner.scopes),
    }[other]
    await registry.register(wish(service, service), owner)
    for named in (None, service):
        for attempt in (
            registry.deregister(service, caller, service=named),
            registry.heartbeat(service, Status.CRITICAL, caller, service=named),
            registry.maintenance(service, "mine now", caller, service=named),
        ):
            with pytest.raises((NotOwner, InstanceUnknown)):
                await attempt
    with pytest.raises((NotOwner, InstanceConflict)):
        await registry.register(wish(service, service), caller)
    assert [one.status for one in await seen(backend, service)] == [Status.PASSING]


async def test_r43_an_admin_may_change_every_instance(backend: Kind) -> None:
    service, registry = unique("helped"), backend.registry
    await registry.register(wish(service, service), tenant(service))
    await registry.deregister(service, Principal("operator", issuer="test", scopes=frozenset({"registry:admin"})))
    assert await seen(backend, service) == ()


async def test_r52_one_caller_has_so_many_instances_and_no_more(backend: Kind) -> None:
    service, other = unique("many"), unique("few")
    registry = ServiceRegistry(backend.records, quota=3)
    for number in range(3):
        await registry.register(wish(service, f"id-{number}"), tenant(service))
    with pytest.raises(QuotaExceeded, match="max_registrations"):
        await registry.register(wish(service, "id-3"), tenant(service))
    assert not (await registry.register(wish(service, "id-2"), tenant(service))).created  # what it has it keeps
    await registry.register(wish(other, "id-0"), tenant(other))
    await registry.deregister("id-0", tenant(service))
    assert (await registry.register(wish(service, "id-3"), tenant(service))).created


async def test_records_are_read_page_by_page(backend: Kind) -> None:
    service = unique("pages")
    for number in range(5):
        await backend.registry.register(wish(service, f"id-{number}"), ANONYMOUS)
    found, after = list[str](), f"{service}/"
    for expected in (2, 2, 1):
        page = await backend.records.page(after, 2)
        names = [one.record.name for one in page.stored if one.record.registration.service_name == service]
        assert len(names) == expected
        found += names
        after = page.following or ""
    assert found == [f"{service}/id-{number}" for number in range(5)]


async def test_a_lapsed_lease_does_not_bind_its_owner_to_the_old_body(backend: Kind) -> None:
    service, registry = unique("lapsed"), await backend.leading()
    await registry.register(wish(service, service, port=1), ANONYMOUS)
    with pytest.raises(InstanceConflict):
        await registry.register(wish(service, service, port=2), ANONYMOUS)
    await registry.sweep()
    backend.clock.now += 31
    await registry.sweep()
    assert (await registry.register(wish(service, service, port=2), ANONYMOUS)).created
    assert [(one.port, one.status) for one in await seen(backend, service)] == [(2, Status.PASSING)]


async def test_a_write_over_what_has_changed_is_a_conflict(backend: Kind) -> None:
    service, registry = unique("stale"), backend.registry
    first = (await registry.register(wish(service, service), ANONYMOUS)).stored
    await registry.heartbeat(service, Status.PASSING, ANONYMOUS)
    with pytest.raises(Conflict):
        await backend.records.replace(first, first.record)
    with pytest.raises(Conflict):
        await backend.records.remove(first)
    with pytest.raises(Conflict):
        await backend.records.create(first.record)
