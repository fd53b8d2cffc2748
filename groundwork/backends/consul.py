"""Registrations and configuration in Consul.

An instance is an entry of the *catalog* on a virtual node, written together with its record in one transaction: an agent behind a
Kubernetes Service would hang the instance on whichever server answered, and lose it with that server (hashicorp/consul#7653).
"""

from __future__ import annotations

import builtins
import dataclasses
from typing import Final

import structlog

from groundwork.backends.base import BlockingRead, ConfigEntry, Consistency, Indexed
from groundwork.backends.blame import ours
from groundwork.backends.consul_reconcile import Wanted, reconcile
from groundwork.backends.consul_records import RECORDS, ConsulRecords
from groundwork.consul.client import MAX_VALUE, ConsulClient
from groundwork.consul.errors import SessionUnknown, TxnConflict
from groundwork.consul.models import KvEntry, Weights
from groundwork.consul.txn import (
    CheckDelete,
    CheckSet,
    KvCas,
    KvCheckIndex,
    KvCheckNotExists,
    KvDelete,
    KvSet,
    NodeSet,
    ServiceDelete,
    ServiceSet,
    TxnOperation,
    TxnResult,
)
from groundwork.discovery.models import Status
from groundwork.errors import BackendRefused, BackendUnavailable, Conflict, PayloadTooLarge, PlatformError, UnreadableRecord
from groundwork.registry.models import Listing, Record, Stored, name_of

NAME: Final = "consul"
NODE: Final = "platform-registry"
NODE_ADDRESS: Final = "127.0.0.1"  # nobody connects to the node: every service on it has an address of its own
LOCK: Final = "registry/sweeper"
SESSION_SECONDS: Final = 15.0
MAX_TXN_VALUE: Final = 256 * 1024  # bytes

log = structlog.stdlib.get_logger(__name__)


class ConsulRegistry:
    """Keeps registrations (`RegistryBackend`). `client` needs write permission for the node, all services, `registry/` and sessions."""

    name = NAME

    def __init__(self, client: ConsulClient, *, holder: str) -> None:
        self._client = client
        self._records = ConsulRecords(client)
        self._holder = holder
        self._session: str | None = None
        self._closed = self._leading = False

    async def get(self, service: str, service_id: str) -> Stored | None:
        """The record as the leader has it."""
        return await self._records.get(name_of(service, service_id))

    async def find(self, service_id: str) -> tuple[Stored, ...]:
        """The instances of that id, of whatever service."""
        names = [name for name in await self._records.names() if name.endswith(f"/{service_id}")]
        return (await self._records.listing(await self._records.entries(names))).stored

    async def count(self, service: str) -> int:
        """How many instances of a service are stored."""
        return len(await self._records.names(f"{service}/"))

    async def list(self) -> Listing:
        """All records. Those of a version that stored them under their id alone are moved to where they belong."""
        entries = await self._records.all()
        moved = [entry.key for entry in entries if "/" not in entry.key.removeprefix(RECORDS) and await self._move(entry)]
        return await self._records.listing([entry for entry in entries if entry.key not in moved], keep=True)

    async def page(self, after: str, limit: int) -> Listing:
        """At most `limit` records whose name comes after `after`."""
        names = [name for name in await self._records.names() if name > after and "/" in name]
        found = await self._records.listing(await self._records.entries(names[:limit]))
        return dataclasses.replace(found, following=names[limit - 1] if len(names) > limit else None)

    async def create(self, record: Record) -> Stored:
        """Record and catalog entry in one transaction. Raises Conflict where the service has an instance of that id."""
        key = RECORDS + record.name
        return await self._write([KvCheckNotExists(key), KvSet(key, _value(record)), *_catalog(record)])

    async def replace(self, known: Stored, record: Record) -> Stored:
        """The record and, where others would see a difference, the catalog entry. Raises Conflict where `known` is not what is stored.

        A heartbeat that changes nothing touches the record only, so that nobody's watch wakes up.
        """
        write = KvCas(RECORDS + record.name, _value(record), known.index)
        visible = [] if known.record.instance() == record.instance() else _catalog(record, before=known.record)
        return await self._write([write, *visible])

    async def remove(self, known: Stored) -> None:
        """Record and catalog entry in one transaction. Raises Conflict where `known` is not what is stored."""
        key = RECORDS + known.record.name
        forget: builtins.list[TxnOperation] = [KvCheckIndex(key, known.index), KvDelete(key)]
        try:
            await self._txn([*forget, ServiceDelete(NODE, known.record.name, known.record.registration.service_name)])
        except TxnConflict as conflict:
            if any(error.operation < len(forget) for error in conflict.errors):
                raise
            await self._txn(forget)  # somebody took it out of the catalog already

    async def reconcile(self) -> int:
        """Make the catalog agree with the records, where this process leads; how many instances were mended."""
        if not self._leading:
            return 0
        wanted = [Wanted(stored.index, tuple(_catalog(stored.record))) for stored in (await self.list()).stored]
        return await reconcile(self._client, NODE, RECORDS, wanted)

    async def lead(self) -> bool:
        """Whether this process holds the sweeper's lock; tries to get it where nobody does. Consul gives it on when its holder dies."""
        self._leading = not self._closed and await self._lead()
        return self._leading

    async def _lead(self) -> bool:
        if self._closed:
            return False  # a sweep under way must not take back what `close` gave away
        try:
            if self._session is not None:
                await self._client.session_renew(self._session)
            holder = await self._client.kv_get(LOCK)
            if holder is not None and holder.session:
                return holder.session == self._session  # asked before each try: an attempt is a write, a look is not
            if self._session is None:
                self._session = await self._client.session_create(name=LOCK, ttl=SESSION_SECONDS, lock_delay=1.0)
            return await self._client.kv_acquire(LOCK, self._holder.encode(), self._session)
        except SessionUnknown:
            self._session = None
            return False

    async def close(self) -> None:
        """Give the lock back for good, so that another replica sweeps at once."""
        self._closed, self._leading = True, False
        session, self._session = self._session, None
        if session is not None:
            try:
                await self._client.session_destroy(session)
            except PlatformError as error:
                log.info("sweeper lock not given back; it ends by itself", error=type(error).__name__)

    async def _write(self, operations: builtins.list[TxnOperation]) -> Stored:
        results = await self._txn(operations)
        entry = next((result.kv for result in results if result.kv is not None), None)
        if entry is None:
            raise BackendUnavailable("Consul did not say what it wrote")
        # The answer to a write holds the index but not the value.
        value = next(operation.value for operation in operations if isinstance(operation, KvSet | KvCas))
        return Stored(Record.model_validate_json(value), entry.modify_index)

    async def _txn(self, operations: builtins.list[TxnOperation]) -> tuple[TxnResult, ...]:
        with ours():
            return await self._client.txn(operations)

    async def _move(self, old: KvEntry) -> bool:
        """A record that is stored under its id alone, and in the catalog likewise, to where this version keeps it; False where it is none."""
        try:
            record = Record.model_validate_json(old.value, extra="ignore")
        except ValueError:
            return False
        key, service_id = RECORDS + record.name, old.key.removeprefix(RECORDS)
        if record.service_id != service_id:
            return False
        forget: builtins.list[TxnOperation] = [KvCheckIndex(old.key, old.modify_index), KvDelete(old.key), ServiceDelete(NODE, service_id)]
        write: builtins.list[TxnOperation] = [KvCheckNotExists(key), KvSet(key, _value(record)), *_catalog(record)]
        try:
            await self._txn(forget + write if await self._records.get(record.name) is None else forget)
        except Conflict:
            return True  # it changes just now: the next sweep will find it
        except (UnreadableRecord, BackendRefused):
            return False
        return True


class ConsulConfig:
    """Keeps configuration (`ConfigSource`)."""

    name = NAME

    def __init__(self, client: ConsulClient) -> None:
        self._client = client

    def tree(self, prefix: str) -> BlockingRead[tuple[ConfigEntry, ...]]:
        """A read of all keys that begin with `prefix`."""

        async def read(*, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[tuple[ConfigEntry, ...]]:
            consistency = Consistency.CONSISTENT if consistent else Consistency.DEFAULT
            found = await self._client.kv_list(prefix, index=after, wait=wait, consistency=consistency)
            return Indexed(
                value=tuple(_entry(entry) for entry in found.value if not entry.key.endswith("/")),
                index=found.index,
                known_leader=found.known_leader,
                last_contact_ms=found.last_contact_ms,
                filtered=found.filtered,
                index_valid=found.index_valid,
            )

        return read

    async def get(self, key: str) -> ConfigEntry | None:
        """The value as the leader has it."""
        with ours():
            found = await self._client.kv_get(key, consistency=Consistency.CONSISTENT)
        return None if found is None else _entry(found)

    async def put(self, key: str, value: bytes, *, cas: int | None = None) -> ConfigEntry:
        """Write a value. Raises Conflict when `cas` does not hold, PayloadTooLarge above 512 KiB."""
        write = KvSet(key, value) if cas is None else KvCheckNotExists(key) if cas == 0 else KvCas(key, value, cas)
        operations: list[TxnOperation] = [write, KvSet(key, value)] if cas == 0 else [write]
        if len(value) > MAX_TXN_VALUE:
            return await self._put_large(key, value, cas)
        try:
            with ours():
                results = await self._client.txn(operations)
        except TxnConflict:
            raise Conflict(f"{key} has changed") from None
        return ConfigEntry(key=key, value=value, modify_index=next(result.kv.modify_index for result in results if result.kv is not None))

    async def _put_large(self, key: str, value: bytes, cas: int | None) -> ConfigEntry:
        """The same for values that are too large for a transaction, whose request is limited to 512 KiB in base64."""
        if len(value) > MAX_VALUE:
            raise PayloadTooLarge(f"{key} has {len(value)} bytes, at most {MAX_VALUE} are kept")
        with ours():
            written = await self._client.kv_put(key, value, cas=cas)
        if not written:
            raise Conflict(f"{key} has changed")
        found = await self.get(key)
        if found is None:
            raise Conflict(f"{key} was removed right after the write")
        return found

    async def delete(self, key: str, *, cas: int | None = None) -> None:
        """Remove a value. Raises Conflict when `cas` does not hold."""
        if cas is None:
            with ours():
                await self._client.kv_delete(key)
            return
        try:
            with ours():
                await self._client.txn([KvCheckIndex(key, cas), KvDelete(key)])
        except TxnConflict:
            raise Conflict(f"{key} has changed") from None


def _catalog(record: Record, before: Record | None = None) -> list[TxnOperation]:
    """What makes the catalog say the same as `record`."""
    wish = record.registration
    operations: list[TxnOperation] = [
        NodeSet(NODE, NODE_ADDRESS, {"external-node": "true", "external-probe": "false"}),
        ServiceSet(
            node=NODE,
            id=record.name,  # unique on its node, which all services share
            service=wish.service_name,
            address=wish.address,
            port=wish.port,
            tags=wish.tags,
            meta=wish.metadata,
            weights=Weights(passing=wish.weight, warning=1),
        ),
        CheckSet(
            node=NODE,
            check_id=f"lease:{record.name}",
            name="lease",
            status=record.status.value,
            service_id=record.name,
            output="lease ended without a heartbeat" if record.lapsed else "",  # constant per state: a changing text would wake every watch
        ),
    ]
    maintenance = f"_service_maintenance:{record.name}"
    if record.maintenance is not None:
        operations.append(
            CheckSet(
                node=NODE,
                check_id=maintenance,
                name="Service Maintenance Mode",
                status=Status.CRITICAL.value,
                service_id=record.name,
                notes=record.maintenance,
            )
        )
    elif before is not None and before.maintenance is not None:
        operations.append(CheckDelete(NODE, maintenance))
    return operations


def _value(record: Record) -> bytes:
    return record.model_dump_json().encode()


def _entry(entry: KvEntry) -> ConfigEntry:
    return ConfigEntry(key=entry.key, value=entry.value, modify_index=entry.modify_index)
