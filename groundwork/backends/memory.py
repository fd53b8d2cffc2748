"""The embedded back end: everything in this process's memory, for development and tests. What it keeps is gone when the process ends."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from groundwork.backends.base import BlockingRead, ConfigEntry, Indexed, ServiceQuery
from groundwork.discovery.models import Instance
from groundwork.errors import Conflict, InvalidRequest, PayloadTooLarge
from groundwork.registry.models import Listing, Record, Stored, name_of

MAX_VALUE: Final = 512 * 1024  # bytes, as Consul (kv_max_value_size)
NAME: Final = "memory"
T = TypeVar("T")


class MemoryStore:
    """The state that the three views below share. One index counts all writes; each topic remembers the index of its last change."""

    def __init__(self) -> None:
        self.records: dict[str, Stored] = {}
        self.config: dict[str, ConfigEntry] = {}
        self._index = 1
        self._changed: dict[str, int] = {}
        self._waiters: set[asyncio.Future[None]] = set()

    def commit(self, *topics: str) -> int:
        """A new index for what is being written, and word to all who wait."""
        self._index += 1
        for topic in topics:
            self._changed[topic] = self._index
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        return self._index

    def changed(self, topic: str) -> int:
        """The index of the last change of `topic`, or of any topic below it where it ends in `/`."""
        if topic.endswith("/"):
            return max((index for name, index in self._changed.items() if name.startswith(topic)), default=1)
        return self._changed.get(topic, 1)

    def read(self, topic: str, look: Callable[[], T]) -> BlockingRead[T]:
        """A blocking read of what `look` sees, which changes only with `topic`."""

        async def read(*, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[T]:
            del consistent  # there is one copy
            loop = asyncio.get_running_loop()
            deadline = loop.time() + wait
            while after is not None and self.changed(topic) == after and loop.time() < deadline:
                waiter: asyncio.Future[None] = loop.create_future()
                self._waiters.add(waiter)
                try:
                    await asyncio.wait({waiter}, timeout=deadline - loop.time())
                finally:
                    self._waiters.discard(waiter)
            return Indexed(value=look(), index=self.changed(topic))

        return read


class MemoryRegistry:
    """Keeps registrations (`RegistryBackend`)."""

    name = NAME

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def get(self, service: str, service_id: str) -> Stored | None:
        """The record of an instance."""
        return self._store.records.get(name_of(service, service_id))

    async def find(self, service_id: str) -> tuple[Stored, ...]:
        """The instances of that id, of whatever service."""
        return tuple(stored for stored in self._sorted() if stored.record.service_id == service_id)

    async def count(self, service: str) -> int:
        """How many instances of a service are stored."""
        return sum(stored.record.registration.service_name == service for stored in self._store.records.values())

    async def list(self) -> Listing:
        """All records."""
        return Listing(self._sorted())

    async def page(self, after: str, limit: int) -> Listing:
        """At most `limit` records whose name comes after `after`."""
        rest = tuple(stored for stored in self._sorted() if stored.record.name > after)
        return Listing(rest[:limit], following=rest[limit - 1].record.name if len(rest) > limit else None)

    async def create(self, record: Record) -> Stored:
        """Store a new record. Raises Conflict where the service has an instance of that id."""
        if record.name in self._store.records:
            raise Conflict(f"{record.name} exists")
        return self._put(record, *self._topics(record))

    async def replace(self, known: Stored, record: Record) -> Stored:
        """Store `record` over `known`. Raises Conflict where that is not what is stored."""
        self._check(known)
        same = known.record.instance() == record.instance()
        return self._put(record, *(() if same else (*self._topics(known.record), *self._topics(record))))

    async def remove(self, known: Stored) -> None:
        """Forget `known`. Raises Conflict where that is not what is stored."""
        self._check(known)
        del self._store.records[known.record.name]
        self._store.commit(*self._topics(known.record))

    async def reconcile(self) -> int:
        """There is one copy."""
        return 0

    async def lead(self) -> bool:
        """There is nobody else."""
        return True

    async def close(self) -> None:
        """Nothing is held."""

    def _check(self, known: Stored) -> None:
        current = self._store.records.get(known.record.name)
        if current is None or current.index != known.index:
            raise Conflict(f"{known.record.name} has changed")

    def _sorted(self) -> tuple[Stored, ...]:
        return tuple(stored for _, stored in sorted(self._store.records.items()))

    def _put(self, record: Record, *topics: str) -> Stored:
        stored = Stored(record, self._store.commit(*topics))
        self._store.records[record.name] = stored
        return stored

    @staticmethod
    def _topics(record: Record) -> builtins.list[str]:
        return [f"service/{record.registration.service_name}", "services"]


class MemoryDiscovery:
    """Tells what is registered (`DiscoverySource`)."""

    name = NAME

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def service(self, query: ServiceQuery) -> BlockingRead[tuple[Instance, ...]]:
        """A read of the instances of one service. Raises InvalidRequest for a filter: there is no language to evaluate here."""
        if query.filter:
            raise InvalidRequest(f"filter {query.filter!r}: the embedded back end evaluates none")

        def look() -> tuple[Instance, ...]:
            records = (stored.record for _, stored in sorted(self._store.records.items()))
            return tuple(record.instance() for record in records if record.registration.service_name == query.service)

        return self._store.read(f"service/{query.service}", look)

    def services(self) -> BlockingRead[Mapping[str, tuple[str, ...]]]:
        """A read of all service names with their tags."""

        def look() -> Mapping[str, tuple[str, ...]]:
            tags: dict[str, set[str]] = {}
            for stored in self._store.records.values():
                tags.setdefault(stored.record.registration.service_name, set()).update(stored.record.registration.tags)
            return {name: tuple(sorted(known)) for name, known in sorted(tags.items())}

        return self._store.read("services", look)


class MemoryConfig:
    """Keeps configuration (`ConfigSource`)."""

    name = NAME

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def tree(self, prefix: str) -> BlockingRead[tuple[ConfigEntry, ...]]:
        """A read of all keys that begin with `prefix`."""

        def look() -> tuple[ConfigEntry, ...]:
            return tuple(entry for key, entry in sorted(self._store.config.items()) if key.startswith(prefix))

        return self._store.read(f"key/{prefix}", look)

    async def get(self, key: str) -> ConfigEntry | None:
        """The value of `key`."""
        return self._store.config.get(key)

    async def put(self, key: str, value: bytes, *, cas: int | None = None) -> ConfigEntry:
        """Write a value. Raises Conflict when `cas` does not hold, PayloadTooLarge above 512 KiB."""
        if len(value) > MAX_VALUE:
            raise PayloadTooLarge(f"{key} has {len(value)} bytes, at most {MAX_VALUE} are kept")
        self._check(key, cas)
        entry = ConfigEntry(key=key, value=value, modify_index=self._store.commit(f"key/{key}"))
        self._store.config[key] = entry
        return entry

    async def delete(self, key: str, *, cas: int | None = None) -> None:
        """Remove a value. Raises Conflict when `cas` does not hold."""
        self._check(key, cas)
        if self._store.config.pop(key, None) is not None:
            self._store.commit(f"key/{key}")

    def _check(self, key: str, cas: int | None) -> None:
        current = self._store.config.get(key)
        if cas is not None and cas != (0 if current is None else current.modify_index):
            raise Conflict(f"{key} has changed")
