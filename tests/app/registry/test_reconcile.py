"""The catalog of Consul says what the records say, whoever else has written to it (r62)."""

from __future__ import annotations

import asyncio

import pytest

from groundwork.auth import ANONYMOUS
from groundwork.backends.base import ServiceQuery
from groundwork.backends.consul import NODE, NODE_ADDRESS, ConsulConfig
from groundwork.consul.client import ConsulClient
from groundwork.consul.txn import CheckSet, NodeDelete, NodeSet, ServiceDelete, ServiceSet, TxnOperation
from groundwork.discovery.models import Instance, Status
from groundwork.registry.reconciler import run_reconciler
from groundwork.testing.contract import unique
from tests.app.registry.backends import Kind, backend, leads, real_consul, wish

__all__ = ["backend", "real_consul"]


def raw(kind: Kind) -> ConsulClient:
    """The client below the back end."""
    if kind.name == "memory":
        pytest.skip("the embedded back end has one copy")
    assert isinstance(kind.config, ConsulConfig)
    return kind.config._client  # pyright: ignore[reportPrivateUsage] - the damage is done behind the back end's back


async def seen(kind: Kind, service: str) -> tuple[Instance, ...]:
    return (await kind.discovery.service(ServiceQuery(service))(consistent=True)).value


async def test_r62_a_node_that_was_deregistered_comes_back_with_all_of_its_instances(backend: Kind) -> None:
    client, service = raw(backend), unique("lost")
    registry = await backend.leading()
    for number in (1, 2):
        await registry.register(wish(service, f"{service}-{number}"), ANONYMOUS)
    await registry.heartbeat(f"{service}-1", Status.WARNING, ANONYMOUS)
    await registry.maintenance(f"{service}-2", "disk", ANONYMOUS)
    before = await seen(backend, service)
    await client.txn([NodeDelete(NODE)])
    assert await seen(backend, service) == ()
    assert await backend.records.reconcile() >= 2
    assert await seen(backend, service) == before
    assert [one.status for one in before] == [Status.WARNING, Status.MAINTENANCE]
    assert await backend.records.reconcile() == 0


@pytest.mark.parametrize("damage", ["removed", "moved", "declared critical"])
async def test_r62_what_somebody_else_wrote_is_put_right(backend: Kind, damage: str) -> None:
    client, service = raw(backend), unique("changed")
    registry = await backend.leading()
    await registry.register(wish(service, service), ANONYMOUS)
    (before,) = await seen(backend, service)
    (entry,) = (await client.health_service(service)).value
    name, checks = entry.service.id, entry.checks or ()
    (check,) = [one for one in checks if one.service_id == name]
    done: dict[str, TxnOperation] = {
        "removed": ServiceDelete(NODE, name, service),
        "moved": ServiceSet(NODE, name, service, "192.0.2.66", 6666),
        "declared critical": CheckSet(NODE, check.check_id, check.name, "critical", name),
    }
    await client.txn([done[damage]])
    assert await seen(backend, service) != (before,)
    assert await backend.records.reconcile() == 1
    assert await seen(backend, service) == (before,)


async def test_r62_an_instance_that_nobody_registered_is_removed(backend: Kind) -> None:
    client, service = raw(backend), unique("stranger")
    await backend.leading()
    await client.txn([NodeSet(NODE, NODE_ADDRESS), ServiceSet(NODE, service, service, "192.0.2.66", 80)])
    assert await backend.records.reconcile() == 1
    assert await seen(backend, service) == ()


async def test_r62_what_changes_meanwhile_is_left_to_whoever_changed_it(backend: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records were read before: one of their instances goes, another one comes."""
    client, gone, new = raw(backend), unique("gone"), unique("new")
    registry = await backend.leading()
    await registry.register(wish(gone, gone), ANONYMOUS)
    read = client.catalog_node_services

    async def late(*arguments: object, **options: object) -> object:
        monkeypatch.undo()
        await registry.deregister(gone, ANONYMOUS)
        await registry.register(wish(new, new), ANONYMOUS)
        return await read(NODE)

    monkeypatch.setattr(client, "catalog_node_services", late)
    assert await backend.records.reconcile() == 0
    assert await seen(backend, gone) == ()
    assert [one.id for one in await seen(backend, new)] == [new]


async def test_r62_only_the_replica_that_leads_writes(backend: Kind) -> None:
    client, service = raw(backend), unique("second")
    await (await backend.leading()).register(wish(service, service), ANONYMOUS)
    await client.txn([NodeDelete(NODE)])
    assert not await backend.again.lead()
    assert await backend.again.reconcile() == 0
    assert await seen(backend, service) == ()
    assert await leads(backend.records)
    task = asyncio.create_task(run_reconciler(backend.records, interval=0.01))
    async with asyncio.timeout(20):
        while await seen(backend, service) == ():  # noqa: ASYNC110 the catalog is outside of this process
            await asyncio.sleep(0.01)
    task.cancel()
