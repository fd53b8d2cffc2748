"""Makes the catalog say again what the records say: whoever removes the registry's node, or writes to it, changes what others discover."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from groundwork.consul.client import ConsulClient
from groundwork.consul.errors import TxnConflict
from groundwork.consul.models import CheckEntry, Consistency, ServiceRecord
from groundwork.consul.txn import CheckSet, KvCheckIndex, KvCheckNotExists, ServiceDelete, ServiceSet, TxnOperation


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the catalog must hold for one record: the operations that write it, and the index of the record that they follow from."""

    index: int
    operations: tuple[TxnOperation, ...]

    @property
    def service(self) -> ServiceSet:
        """The instance among them."""
        return next(operation for operation in self.operations if isinstance(operation, ServiceSet))


async def reconcile(client: ConsulClient, node: str, records: str, wanted: Iterable[Wanted]) -> int:
    """Write what is missing or differs, remove what has no record; how many instances were mended.

    `records` is the prefix of the records, whose key goes on with the instance's id in the catalog. `wanted` was read before this call:
    an instance whose record has changed since is left to whoever changed it.
    """
    services = {found.id: found for found in (await client.catalog_node_services(node, consistency=Consistency.CONSISTENT)).value}
    checks = {found.check_id: found for found in (await client.health_node(node, consistency=Consistency.CONSISTENT)).value}
    known = {one.service.id: one for one in wanted}
    mended = 0
    for name, one in known.items():
        if not _holds(one, services, checks):
            mended += await _done(client, [KvCheckIndex(records + name, one.index), *one.operations])
    for name in services.keys() - known.keys():
        mended += await _done(client, [KvCheckNotExists(records + name), ServiceDelete(node, name, services[name].service)])
    return mended


def _holds(wanted: Wanted, services: Mapping[str, ServiceRecord], checks: Mapping[str, CheckEntry]) -> bool:
    service = wanted.service
    found = services.get(service.id)
    if found is None or (found.service, found.address, found.port) != (service.service, service.address, service.port):
        return False
    for operation in wanted.operations:
        if isinstance(operation, CheckSet):
            check = checks.get(operation.check_id)
            if check is None or check.status != operation.status:
                return False
    return True


async def _done(client: ConsulClient, operations: list[TxnOperation]) -> bool:
    try:
        await client.txn(operations)
    except TxnConflict:
        return False  # the record has changed meanwhile, and the catalog with it
    return True
