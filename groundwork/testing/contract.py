"""What the runtime relies on in Consul, as tests. The simulator and a real Consul pass the same ones.

Subclass `ConsulContract` in a test module and give it a fixture `consul` with an open `ConsulClient` that may write everything. Subclass
`SourceContract` with a fixture `backend` for anything that feeds discovery and configuration.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import pytest

from groundwork.backends.base import ConfigSource, DiscoverySource, ServiceQuery
from groundwork.consul.client import ConsulClient
from groundwork.consul.errors import SessionUnknown, TxnConflict
from groundwork.consul.models import Consistency, Weights
from groundwork.consul.txn import (
    CheckDelete,
    CheckSet,
    KvCas,
    KvCheckIndex,
    KvCheckNotExists,
    KvDelete,
    KvDeleteCas,
    KvSet,
    NodeDelete,
    NodeSet,
    ServiceDelete,
    ServiceSet,
    TxnOperation,
)
from groundwork.discovery.models import Status
from groundwork.errors import Conflict, InvalidRequest, PayloadTooLarge

T = TypeVar("T")

SOON = 10.0  # seconds; reached only where something is broken


async def soon(awaitable: Awaitable[T]) -> T:
    """The result, within a deadline that only a fault reaches."""
    async with asyncio.timeout(SOON):
        return await awaitable


def unique(prefix: str) -> str:
    """A name that nobody else uses, so that tests may share one Consul."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def instance(node: str, service: str, service_id: str, *, status: str = "passing", port: int = 80) -> list[TxnOperation]:
    """The operations that register an instance with its check."""
    return [
        NodeSet(node, "192.0.2.1", {"external-node": "true"}),
        ServiceSet(node, service_id, service, "192.0.2.7", port, ("a", "b"), {"zone": "z1"}, Weights(3, 1)),
        CheckSet(node, f"lease:{service_id}", "lease", status, service_id),
    ]


class ConsulContract:
    """Answers of Consul's HTTP API. Every test uses names of its own."""

    async def test_there_is_a_leader(self, consul: ConsulClient) -> None:
        assert await consul.leader()

    async def test_an_absent_key_is_none_and_not_an_error(self, consul: ConsulClient) -> None:
        assert await consul.kv_get(unique("absent")) is None

    async def test_a_value_comes_back_as_it_was_written(self, consul: ConsulClient) -> None:
        key, value = unique("k") + "/ä b,c/+&=#?", bytes(range(256))
        assert await consul.kv_put(key, value, flags=42)
        found = await consul.kv_get(key, consistency=Consistency.CONSISTENT)
        assert found is not None
        assert (found.key, found.value, found.flags) == (key, value, 42)
        assert found.modify_index == found.create_index > 0

    async def test_an_empty_value_is_empty_bytes(self, consul: ConsulClient) -> None:
        key = unique("k")
        await consul.kv_put(key, b"")
        found = await consul.kv_get(key)
        assert found is not None
        assert found.value == b""

    async def test_cas_zero_creates_once(self, consul: ConsulClient) -> None:
        key = unique("k")
        assert await consul.kv_put(key, b"1", cas=0)
        assert not await consul.kv_put(key, b"2", cas=0)

    async def test_cas_holds_only_for_the_last_index(self, consul: ConsulClient) -> None:
        key = unique("k")
        await consul.kv_put(key, b"1")
        first = await consul.kv_get(key)
        assert first is not None
        assert await consul.kv_put(key, b"2", cas=first.modify_index)
        assert not await consul.kv_put(key, b"3", cas=first.modify_index)
        assert not await consul.kv_delete(key, cas=first.modify_index)
        assert await consul.kv_get(key) is not None

    async def test_an_equal_write_keeps_the_index(self, consul: ConsulClient) -> None:
        key = unique("k")
        await consul.kv_put(key, b"1")
        before = await consul.kv_get(key)
        await consul.kv_put(key, b"1")
        assert await consul.kv_get(key) == before

    async def test_a_list_holds_its_prefix_only_and_is_sorted(self, consul: ConsulClient) -> None:
        root = unique("config")
        for key in ("a/2", "a/1", "ab/1"):
            await consul.kv_put(f"{root}/{key}", b"x")
        found = await consul.kv_list(f"{root}/a/")
        assert [entry.key for entry in found.value] == [f"{root}/a/1", f"{root}/a/2"]

    async def test_an_empty_list_has_an_index_to_wait_on(self, consul: ConsulClient) -> None:
        found = await consul.kv_list(unique("nothing") + "/")
        assert found.value == ()
        assert found.index >= 1
        assert found.index_valid

    async def test_a_value_above_the_limit_is_refused(self, consul: ConsulClient) -> None:
        with pytest.raises(PayloadTooLarge):
            await consul.kv_put(unique("k"), b"x" * (512 * 1024 + 1))

    async def test_a_key_that_leads_out_of_the_tree_is_refused(self, consul: ConsulClient) -> None:
        for key in ("../agent/self", "a/../../catalog", "/x", "a//b", ""):
            with pytest.raises(InvalidRequest):
                await consul.kv_get(key)

    async def test_a_blocking_list_returns_with_the_change(self, consul: ConsulClient) -> None:
        root = unique("config") + "/"
        await consul.kv_put(root + "a", b"1")
        before = await consul.kv_list(root)
        waiting = asyncio.create_task(consul.kv_list(root, index=before.index, wait=30))
        await consul.kv_put(root + "b", b"2")
        after = await soon(waiting)
        assert [entry.key for entry in after.value] == [root + "a", root + "b"]
        assert after.index > before.index

    async def test_a_blocking_list_returns_when_its_newest_key_is_deleted(self, consul: ConsulClient) -> None:
        root = unique("config") + "/"
        await consul.kv_put(root + "a", b"1")
        await consul.kv_put(root + "b", b"2")
        before = await consul.kv_list(root)
        waiting = asyncio.create_task(consul.kv_list(root, index=before.index, wait=30))
        await consul.kv_delete(root + "b")
        after = await soon(waiting)
        assert [entry.key for entry in after.value] == [root + "a"]
        assert after.index > before.index

    async def test_a_blocking_list_without_a_change_returns_the_same_index(self, consul: ConsulClient) -> None:
        root = unique("config") + "/"
        await consul.kv_put(root + "a", b"1")
        before = await consul.kv_list(root)
        after = await soon(consul.kv_list(root, index=before.index, wait=0.05))
        assert (after.value, after.index) == (before.value, before.index)

    async def test_an_unknown_service_has_no_instances(self, consul: ConsulClient) -> None:
        found = await consul.health_service(unique("nobody"))
        assert found.value == ()
        assert found.index >= 1

    async def test_a_registration_by_transaction_is_visible_whole(self, consul: ConsulClient) -> None:
        node, service = unique("node"), unique("service")
        await consul.txn(instance(node, service, f"{service}-1"))
        (entry,) = (await consul.health_service(service)).value
        record = entry.service
        assert (record.id, record.address, record.port, record.tags) == (f"{service}-1", "192.0.2.7", 80, ("a", "b"))
        assert record.meta == {"zone": "z1"}
        assert record.weights == Weights(3, 1)
        assert [check.status for check in entry.checks or ()] == ["passing"]
        assert entry.node.node == node

    async def test_passing_leaves_out_what_is_critical(self, consul: ConsulClient) -> None:
        node, service = unique("node"), unique("service")
        await consul.txn([*instance(node, service, f"{service}-1"), *instance(node, service, f"{service}-2", status="critical")])
        assert len((await consul.health_service(service)).value) == 2
        assert [e.service.id for e in (await consul.health_service(service, passing=True)).value] == [f"{service}-1"]

    async def test_a_blocking_health_read_returns_with_a_new_instance(self, consul: ConsulClient) -> None:
        node, service = unique("node"), unique("service")
        await consul.txn(instance(node, service, f"{service}-1"))
        before = await consul.health_service(service)
        waiting = asyncio.create_task(consul.health_service(service, index=before.index, wait=30))
        await consul.txn(instance(node, service, f"{service}-2"))
        assert len((await soon(waiting)).value) == 2

    async def test_a_blocking_health_read_returns_when_a_check_changes(self, consul: ConsulClient) -> None:
        node, service = unique("node"), unique("service")
        await consul.txn(instance(node, service, f"{service}-1"))
        before = await consul.health_service(service)
        waiting = asyncio.create_task(consul.health_service(service, index=before.index, wait=30))
        await consul.txn([CheckSet(node, f"lease:{service}-1", "lease", "critical", f"{service}-1")])
        (entry,) = (await soon(waiting)).value
        assert [check.status for check in entry.checks or ()] == ["critical"]

    async def test_a_blocking_health_read_returns_when_the_last_instance_leaves(self, consul: ConsulClient) -> None:
        node, service = unique("node"), unique("service")
        await consul.txn(instance(node, service, f"{service}-1"))
        before = await consul.health_service(service)
        waiting = asyncio.create_task(consul.health_service(service, index=before.index, wait=30))
        await consul.txn([ServiceDelete(node, f"{service}-1")])
        assert (await soon(waiting)).value == ()

    async def test_a_service_is_listed_with_its_tags_while_it_has_instances(self, consul: ConsulClient) -> None:
        node, service = unique("node"), unique("service")
        await consul.txn(instance(node, service, f"{service}-1"))
        assert sorted((await consul.catalog_services()).value[service]) == ["a", "b"]
        await consul.txn([ServiceDelete(node, f"{service}-1")])
        assert service not in (await consul.catalog_services()).value

    async def test_a_node_lists_its_services_and_checks(self, consul: ConsulClient) -> None:
        node, service = unique("node"), unique("service")
        await consul.txn(instance(node, service, f"{service}-1"))
        assert [record.id for record in (await consul.catalog_node_services(node)).value] == [f"{service}-1"]
        assert [check.service_id for check in (await consul.health_node(node)).value] == [f"{service}-1"]
        await consul.txn([CheckDelete(node, f"lease:{service}-1")])
        assert (await consul.health_node(node)).value == ()
        await consul.txn([NodeDelete(node)])
        assert (await consul.catalog_node_services(node)).value == ()

    async def test_a_transaction_whose_condition_does_not_hold_changes_nothing(self, consul: ConsulClient) -> None:
        key, other = unique("k"), unique("k")
        await consul.kv_put(key, b"1")
        with pytest.raises(TxnConflict) as caught:
            await consul.txn([KvSet(other, b"x"), KvCheckNotExists(key)])
        assert [error.operation for error in caught.value.errors] == [1]
        assert await consul.kv_get(other) is None

    async def test_all_keys_of_a_transaction_get_one_index(self, consul: ConsulClient) -> None:
        one, two = unique("k"), unique("k")
        results = await consul.txn([KvSet(one, b"1"), KvSet(two, b"2")])
        indexes = {result.kv.modify_index for result in results if result.kv is not None}
        assert len(indexes) == 1
        found = await consul.kv_get(two)
        assert found is not None
        assert found.modify_index in indexes

    async def test_conditions_on_the_index(self, consul: ConsulClient) -> None:
        key = unique("k")
        (written,) = await consul.txn([KvCas(key, b"1", 0)])
        assert written.kv is not None
        index = written.kv.modify_index
        await consul.txn([KvCheckIndex(key, index)])
        for operation in (KvCheckIndex(key, index + 1), KvDeleteCas(key, index + 1), KvCas(key, b"2", index + 1), KvCas(key, b"2", 0)):
            with pytest.raises(TxnConflict):
                await consul.txn([operation])
        await consul.txn([KvDeleteCas(key, index)])
        with pytest.raises(TxnConflict):
            await consul.txn([KvCheckIndex(key, index)])
        await consul.txn([KvDelete(key), KvDeleteCas(key, index)])

    async def test_removing_an_absent_instance_or_check(self, consul: ConsulClient) -> None:
        node = unique("node")
        await consul.txn([NodeSet(node, "192.0.2.1")])
        for operation in (ServiceDelete(node, "absent"), CheckDelete(node, "absent")):
            await consul.txn([operation])

    async def test_an_instance_needs_its_node_and_a_check_its_instance(self, consul: ConsulClient) -> None:
        node = unique("node")
        with pytest.raises(TxnConflict):
            await consul.txn([ServiceSet(node, "s-1", "s", "192.0.2.7", 80)])
        with pytest.raises(TxnConflict):
            await consul.txn([NodeSet(node, "192.0.2.1"), CheckSet(node, "c", "c", "passing", "absent")])

    async def test_a_lock_has_one_holder(self, consul: ConsulClient) -> None:
        key = unique("lock")
        one, two = await consul.session_create(ttl=10, lock_delay=0), await consul.session_create(ttl=10, lock_delay=0)
        assert await consul.kv_acquire(key, b"one", one)
        assert await consul.kv_acquire(key, b"one", one)
        assert not await consul.kv_acquire(key, b"two", two)
        await consul.session_renew(one)
        assert await consul.kv_release(key, b"", one)
        assert await consul.kv_acquire(key, b"two", two)
        await consul.session_destroy(two)
        found = await consul.kv_get(key)
        assert found is not None
        assert found.session == ""
        await consul.session_destroy(one)

    async def test_a_lock_whose_holder_was_lost_stays_closed_for_its_delay(self, consul: ConsulClient) -> None:
        lost, given_back = unique("lock"), unique("lock")
        one, two = await consul.session_create(ttl=10, lock_delay=1), await consul.session_create(ttl=10, lock_delay=1)
        for key in (lost, given_back):
            assert await consul.kv_acquire(key, b"one", one)
        assert await consul.kv_release(given_back, b"", one)
        assert await consul.kv_acquire(given_back, b"two", two)
        await consul.session_destroy(one)
        assert not await consul.kv_acquire(lost, b"two", two)
        async with asyncio.timeout(SOON):
            while not await consul.kv_acquire(lost, b"two", two):  # noqa: ASYNC110 the lock is outside of this process
                await asyncio.sleep(0.05)
        await consul.session_destroy(two)

    async def test_a_session_lives_for_ten_seconds_at_least(self, consul: ConsulClient) -> None:
        with pytest.raises(InvalidRequest):
            await consul.session_create(ttl=5)

    async def test_flags_are_kept_beside_the_value(self, consul: ConsulClient) -> None:
        key, flags = unique("k"), 2**63 - 1
        await consul.kv_put(key, b"1", flags=flags)
        found = await consul.kv_get(key)
        assert found is not None
        assert found.flags == flags

    async def test_an_ended_session_is_named_as_such(self, consul: ConsulClient) -> None:
        session = await consul.session_create(ttl=10)
        await consul.session_destroy(session)
        with pytest.raises(SessionUnknown):
            await consul.session_renew(session)
        with pytest.raises(SessionUnknown):
            await consul.kv_acquire(unique("lock"), b"", session)


class Backend(Protocol):
    """A back end under test and a way to put instances into it."""

    @property
    def discovery(self) -> DiscoverySource: ...
    @property
    def config(self) -> ConfigSource: ...

    async def register(self, service: str, service_id: str, *, status: Status = Status.PASSING, zone: str = "") -> None:
        """Register an instance, or change its status. `zone` goes into its metadata."""
        ...

    async def deregister(self, service_id: str) -> None:
        """Remove an instance."""
        ...


class SourceContract:
    """What discovery and configuration rely on in any back end."""

    async def test_an_unknown_service_is_empty_with_an_index(self, backend: Backend) -> None:
        found = await backend.discovery.service(ServiceQuery(unique("nobody")))()
        assert found.value == ()
        assert found.index >= 1

    async def test_a_registered_instance_is_read(self, backend: Backend) -> None:
        service = unique("service")
        await backend.register(service, f"{service}-1")
        (found,) = (await backend.discovery.service(ServiceQuery(service))()).value
        assert (found.id, found.service, found.status) == (f"{service}-1", service, Status.PASSING)
        assert service in (await backend.discovery.services()()).value

    async def test_instances_are_sorted_and_the_unhealthy_are_among_them(self, backend: Backend) -> None:
        service = unique("service")
        for number in (2, 1, 3):
            await backend.register(service, f"{service}-{number}", status=Status.CRITICAL if number == 3 else Status.PASSING)
        found = (await backend.discovery.service(ServiceQuery(service))()).value
        assert [one.id for one in found] == [f"{service}-{n}" for n in (1, 2, 3)]
        assert [one.status for one in found] == [Status.PASSING, Status.PASSING, Status.CRITICAL]

    async def test_a_wait_for_instances_ends_with_each_kind_of_change(self, backend: Backend) -> None:
        service = unique("service")
        read = backend.discovery.service(ServiceQuery(service))
        await backend.register(service, f"{service}-1")
        changes: tuple[tuple[Callable[[], Awaitable[object]], int], ...] = (
            (lambda: backend.register(service, f"{service}-2"), 2),
            (lambda: backend.register(service, f"{service}-2", status=Status.CRITICAL), 2),
            (lambda: backend.deregister(f"{service}-2"), 1),
            (lambda: backend.deregister(f"{service}-1"), 0),
        )
        for change, count in changes:
            before = await read(consistent=True)
            waiting = asyncio.create_task(_asked(read(after=before.index, wait=30)))
            await change()
            after = await soon(waiting)
            assert len(after.value) == count
            assert after.value != before.value

    async def test_a_wait_without_a_change_ends_with_the_same_state(self, backend: Backend) -> None:
        service = unique("service")
        await backend.register(service, f"{service}-1")
        read = backend.discovery.service(ServiceQuery(service))
        before = await read()
        after = await soon(read(after=before.index, wait=0.05))
        assert (after.value, after.index) == (before.value, before.index)

    async def test_config_comes_back_as_written(self, backend: Backend) -> None:
        key = f"{unique('config')}/limits"
        written = await backend.config.put(key, b'{"a": 1}')
        assert await backend.config.get(key) == written
        assert (written.key, written.value) == (key, b'{"a": 1}')

    async def test_config_cas(self, backend: Backend) -> None:
        key = f"{unique('config')}/limits"
        first = await backend.config.put(key, b"1", cas=0)
        with pytest.raises(Conflict):
            await backend.config.put(key, b"2", cas=0)
        second = await backend.config.put(key, b"2", cas=first.modify_index)
        assert second.modify_index > first.modify_index
        with pytest.raises(Conflict):
            await backend.config.put(key, b"3", cas=first.modify_index)
        with pytest.raises(Conflict):
            await backend.config.delete(key, cas=first.modify_index)
        await backend.config.delete(key, cas=second.modify_index)
        assert await backend.config.get(key) is None
        await backend.config.delete(key)

    @pytest.mark.parametrize("size", [8, 300 * 1024], ids=["small", "large"])
    async def test_a_write_that_lost_changes_nothing_whatever_its_size(self, backend: Backend, size: int) -> None:
        key, value = f"{unique('config')}/k", b"1" * size
        first = await backend.config.put(key, value, cas=0)
        second = await backend.config.put(key, b"2" * size, cas=first.modify_index)
        assert second.modify_index > first.modify_index
        for lost in (0, first.modify_index, second.modify_index + 1):
            with pytest.raises(Conflict):
                await backend.config.put(key, b"3" * size, cas=lost)
        assert await backend.config.get(key) == second

    async def test_a_change_of_nothing_but_metadata_is_seen(self, backend: Backend) -> None:
        service = unique("service")
        read = backend.discovery.service(ServiceQuery(service))
        await backend.register(service, f"{service}-1")
        (before,) = (await read()).value
        await backend.deregister(f"{service}-1")
        await backend.register(service, f"{service}-1", zone="z2")
        (after,) = (await read(consistent=True)).value
        assert (before.zone, after.zone) == ("", "z2")

    async def test_config_too_large_is_refused(self, backend: Backend) -> None:
        with pytest.raises(PayloadTooLarge):
            await backend.config.put(f"{unique('config')}/k", b"x" * (512 * 1024 + 1))

    async def test_a_tree_holds_its_prefix_only(self, backend: Backend) -> None:
        root = unique("config")
        for key in ("a/2", "a/1", "ab/1"):
            await backend.config.put(f"{root}/{key}", b"1")
        found = await backend.config.tree(f"{root}/a/")()
        assert [entry.key for entry in found.value] == [f"{root}/a/1", f"{root}/a/2"]

    async def test_a_wait_for_a_tree_ends_with_each_kind_of_change(self, backend: Backend) -> None:
        root = unique("config") + "/"
        read = backend.config.tree(root)
        await backend.config.put(root + "a", b"1")
        changes: tuple[tuple[Callable[[], Awaitable[object]], int], ...] = (
            (lambda: backend.config.put(root + "b", b"2"), 2),
            (lambda: backend.config.put(root + "b", b"3"), 2),
            (lambda: backend.config.delete(root + "b"), 1),
        )
        for change, count in changes:
            before = await read(consistent=True)
            waiting = asyncio.create_task(_asked(read(after=before.index, wait=30)))
            await change()
            after = await soon(waiting)
            assert len(after.value) == count
            assert after.value != before.value


async def _asked(awaitable: Awaitable[T]) -> T:
    """A coroutine of any awaitable, for create_task."""
    return await awaitable
