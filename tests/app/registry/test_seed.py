"""Faults of the source document's registry (R1 to R20) that no other test names: the bad form is refused, the right one works."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from groundwork.auth import ANONYMOUS
from groundwork.backends.memory import MemoryRegistry, MemoryStore
from groundwork.discovery.models import Status
from groundwork.errors import BackendUnavailable, PermissionDenied, PlatformError
from groundwork.registry.models import CheckSpec, Listing, Record, Registration, Stored
from groundwork.registry.service import ServiceRegistry
from tests.app.registry.backends import wish


@dataclass
class Away:
    """A back end that fails in one way."""

    error: PlatformError
    name: str = "away"

    async def get(self, service: str, service_id: str) -> Stored | None:
        raise self.error

    async def find(self, service_id: str) -> tuple[Stored, ...]:
        raise self.error

    async def count(self, service: str) -> int:
        raise self.error

    async def list(self) -> Listing:
        raise self.error

    async def page(self, after: str, limit: int) -> Listing:
        raise self.error

    async def create(self, record: Record) -> Stored:
        raise self.error

    async def replace(self, known: Stored, record: Record) -> Stored:
        raise self.error

    async def remove(self, known: Stored) -> None:
        raise self.error

    async def reconcile(self) -> int:
        raise self.error

    async def lead(self) -> bool:
        raise self.error

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [BackendUnavailable("away"), PermissionDenied("no")])
async def test_r2_r4_a_failure_is_an_error_of_its_own_kind_and_never_false_or_nothing(error: PlatformError) -> None:
    registry = ServiceRegistry(Away(error))
    for attempt in (
        registry.register(wish(), ANONYMOUS),
        registry.heartbeat("x", Status.PASSING, ANONYMOUS),
        registry.deregister("x", ANONYMOUS),
        registry.page(),
        registry.sweep(),
    ):
        with pytest.raises(type(error)):
            await attempt


@pytest.mark.parametrize("duration", ["30s", "59999ms", "0s", "1"])
def test_r3_deregistering_after_less_than_consuls_minute_is_refused(duration: str) -> None:
    with pytest.raises(ValidationError, match="deregister_after"):
        CheckSpec(deregister_after=duration)


def test_r3_the_default_is_much_longer_than_an_outage() -> None:
    assert CheckSpec().deregister_after_seconds == 1800


def test_r5_script_checks_do_not_exist() -> None:
    with pytest.raises(ValidationError):
        CheckSpec.model_validate({"type": "script", "args": ["/bin/sh"]})


async def test_r13_the_worst_of_lease_and_maintenance_counts() -> None:
    registry = ServiceRegistry(MemoryRegistry(MemoryStore()))
    await registry.register(wish(), ANONYMOUS)
    await registry.heartbeat("user-service-1", Status.WARNING, ANONYMOUS)
    stored = await registry.maintenance("user-service-1", "disk", ANONYMOUS)
    assert stored.record.effective_status is Status.MAINTENANCE


async def test_r14_r19_times_are_those_of_what_happened_and_say_their_zone() -> None:
    registry = ServiceRegistry(MemoryRegistry(MemoryStore()))
    first = (await registry.register(wish(), ANONYMOUS)).stored.record
    later = (await registry.maintenance("user-service-1", "disk", ANONYMOUS)).record
    assert (later.registered_at, later.renewed_at) == (first.registered_at, first.renewed_at)  # nothing was renewed
    assert first.registered_at.endswith("Z")


def test_r20_what_tasks_share_cannot_be_changed() -> None:
    registration = wish()
    with pytest.raises(ValidationError, match="frozen"):
        registration.port = 1  # pyright: ignore[reportAttributeAccessIssue] - the attempt is the test
    assert isinstance(registration.tags, tuple)
    with pytest.raises(AttributeError):
        Record(registration=registration, owner="o", registered_at="", renewed_at="").instance().port = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_r18_a_name_must_fit_into_dns() -> None:
    with pytest.raises(ValidationError, match="service_name"):
        Registration(service_name="User_Service", service_id="x", address="10.0.0.1", port=1)
