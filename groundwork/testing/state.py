"""The simulator's store: keys, catalog and sessions with Consul's index rules, without any input or output."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from groundwork.testing.wire import (
    Check,
    Json,
    Key,
    KvOperation,
    Node,
    Operation,
    Service,
    check_json,
    check_row,
    key_json,
    pairs,
    service_json,
    service_row,
)


@dataclass
class Tables:
    """All that a transaction may roll back."""

    keys: dict[str, Key] = field(default_factory=dict[str, Key])
    tombstones: dict[str, int] = field(default_factory=dict[str, int])
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    services: dict[tuple[str, str], Service] = field(default_factory=dict[tuple[str, str], Service])
    checks: dict[tuple[str, str], Check] = field(default_factory=dict[tuple[str, str], Check])
    service_index: dict[str, int] = field(default_factory=dict[str, int])
    extinction_index: int = 1
    kv_index: int = 1
    catalog_index: int = 1

    def fork(self) -> Tables:
        """A copy whose rows are shared: rows are immutable."""
        return replace(
            self,
            keys=dict(self.keys),
            tombstones=dict(self.tombstones),
            nodes=dict(self.nodes),
            services=dict(self.services),
            checks=dict(self.checks),
            service_index=dict(self.service_index),
        )


@dataclass(frozen=True)
class Session:
    """A session: it ends `ttl` seconds after its last renewal (0: never), and its locks stay closed for `lock_delay` after that."""

    name: str
    ttl: float
    lock_delay: float
    ends_at: float


class Refused(Exception):
    """An operation of a transaction does not hold."""


class Store:
    """The state and its index, which grows by one with each write."""

    def __init__(self) -> None:
        self.index = 10  # Consul has written its own things before anybody asks
        self.tables: Tables = Tables()
        self.sessions: dict[str, Session] = {}
        self.clock = monotonic
        self._closed_until: dict[str, float] = {}
        self._frozen = False

    # Reading

    def kv(self, key: str) -> tuple[int, Key | None]:
        """A key and the index to wait on."""
        found = self.tables.keys.get(key)
        return (found.modify_index if found else self.tables.kv_index), found

    def tree(self, prefix: str) -> tuple[int, list[tuple[str, Key]]]:
        """All keys below a prefix; its index counts deletions too."""
        found = [(key, entry) for key, entry in sorted(self.tables.keys.items()) if key.startswith(prefix)]
        indexes = [entry.modify_index for _, entry in found]
        indexes += [index for key, index in self.tables.tombstones.items() if key.startswith(prefix)]
        return (max(indexes) if prefix and indexes else self.tables.kv_index), found

    def instances(self, service: str) -> tuple[int, list[Service]]:
        """All instances of a service, and the index of the last change that concerns it."""
        found = [row for _, row in sorted(self.tables.services.items()) if row.service == service]
        index = self.tables.service_index.get(service) if found else None
        return (self.tables.extinction_index if index is None else index), found

    def checks(self, row: Service) -> list[Check]:
        """The checks that count for an instance: its own and its node's."""
        checks = self.tables.checks.values()
        return [check for check in checks if check.node == row.node and check.service_id in {"", row.id}]

    # Writing

    def put(self, key: str, value: bytes, *, cas: int | None = None, flags: int = 0) -> bool:
        """Write a key; False where `cas` does not hold."""
        old = self.tables.keys.get(key)
        if cas is not None and cas != (old.modify_index if old else 0):
            return False
        self._put(key, value, flags, old.session if old else "", old.lock_index if old else 0)
        return True

    def delete(self, key: str, *, cas: int | None = None) -> bool:
        """Remove a key; False where `cas` does not hold."""
        old = self.tables.keys.get(key)
        if old is None:
            return True
        if cas is not None and cas != old.modify_index:
            return False
        self._next()
        del self.tables.keys[key]
        self.tables.tombstones[key] = self.tables.kv_index = self.index
        return True

    def lock(self, key: str, value: bytes, session: str) -> bool:
        """Take a key's lock; False while another session holds it."""
        self.expire()
        old = self.tables.keys.get(key)
        if old and old.session and old.session != session:
            return False
        if self._closed_until.get(key, 0.0) > self.clock():
            return False
        held = bool(old and old.session == session)
        self._put(key, value, 0, session, (old.lock_index if old else 0) + (0 if held else 1))
        return True

    def unlock(self, key: str, value: bytes, session: str) -> bool:
        """Give a key's lock back; False where the session does not hold it."""
        old = self.tables.keys.get(key)
        if old is None or old.session != session:
            return False
        self._put(key, value, 0, "", old.lock_index)
        return True

    def open_session(self, name: str, *, ttl: float = 0.0, lock_delay: float = 15.0) -> str:
        """A new session."""
        session = str(uuid.uuid4())
        self._next()
        self.sessions[session] = Session(name, ttl, lock_delay, self.clock() + ttl)
        return session

    def renew_session(self, session: str) -> bool:
        """Start its time anew; False where it has ended."""
        self.expire()
        known = self.sessions.get(session)
        if known is not None:
            self.sessions[session] = replace(known, ends_at=self.clock() + known.ttl)
        return known is not None

    def end_session(self, session: str, *, at: float | None = None) -> None:
        """End a session and release its locks, which nobody gets within its lock delay."""
        ended = self.sessions.pop(session, None)
        if ended is not None:
            for key, entry in list(self.tables.keys.items()):
                if entry.session == session:
                    self._put(key, entry.value, entry.flags, "", entry.lock_index)
                    self._closed_until[key] = (self.clock() if at is None else at) + ended.lock_delay

    def expire(self) -> bool:
        """End the sessions whose time is over; whether there was one. Consul may let them live up to twice as long, never shorter."""
        over = [(session, known.ends_at) for session, known in self.sessions.items() if known.ttl and known.ends_at <= self.clock()]
        for session, at in over:
            self.end_session(session, at=at)
        return bool(over)

    def set_node(self, name: str, address: str, meta: Mapping[str, str] | None = None) -> None:
        """Create or replace a node."""
        node = Node(address, pairs(meta))
        if self.tables.nodes.get(name) != node:
            self._next()
            self.tables.nodes[name] = node
            self._touch(*(row.service for row in self.tables.services.values() if row.node == name))

    def delete_node(self, name: str) -> None:
        """Remove a node and everything on it."""
        for node, service in [key for key in self.tables.services if key[0] == name]:
            self.delete_service(node, service)
        for key in [key for key in self.tables.checks if key[0] == name]:
            del self.tables.checks[key]
        if self.tables.nodes.pop(name, None) is not None:
            self._next()
            self._touch()

    def set_service(self, row: Service) -> None:
        """Create or replace an instance. An equal one changes no index."""
        if row.node not in self.tables.nodes:
            raise Refused(f'Missing node registration: "{row.node}"')
        old = self.tables.services.get((row.node, row.id))
        if old is not None and replace(old, create_index=0, modify_index=0) == replace(row, create_index=0, modify_index=0):
            return
        self._next()
        self.tables.services[row.node, row.id] = replace(row, create_index=old.create_index if old else self.index, modify_index=self.index)
        self._touch(row.service, *([old.service] if old else []))

    def delete_service(self, node: str, service_id: str) -> None:
        """Remove an instance with its checks; fine where there is none."""
        row = self.tables.services.pop((node, service_id), None)
        if row is None:
            return
        self._next()
        for key, check in list(self.tables.checks.items()):
            if check.node == node and check.service_id == service_id:
                del self.tables.checks[key]
        self._touch(row.service)
        if not any(other.service == row.service for other in self.tables.services.values()):
            self.tables.service_index.pop(row.service, None)
            self.tables.extinction_index = self.index

    def set_check(self, row: Check) -> None:
        """Create or replace a check. An equal one changes no index."""
        if row.node not in self.tables.nodes:
            raise Refused(f'Missing node registration: "{row.node}"')
        service = self.tables.services.get((row.node, row.service_id)) if row.service_id else None
        if row.service_id and service is None:
            raise Refused(f'Missing service registration: "{row.service_id}"')
        row = replace(row, service_name=service.service if service else "")
        old = self.tables.checks.get((row.node, row.check_id))
        if old is not None and replace(old, create_index=0, modify_index=0) == replace(row, create_index=0, modify_index=0):
            return
        self._next()
        self.tables.checks[row.node, row.check_id] = replace(row, create_index=old.create_index if old else self.index, modify_index=self.index)
        self._touch(*([service.service] if service else [other.service for other in self.tables.services.values() if other.node == row.node]))

    def delete_check(self, node: str, check_id: str) -> None:
        """Remove a check; fine where there is none."""
        row = self.tables.checks.pop((node, check_id), None)
        if row is not None:
            self._next()
            self._touch(*([row.service_name] if row.service_name else []))

    def transaction(self, operations: Sequence[Operation]) -> tuple[list[Json], list[Json]]:
        """Do all operations or none; results and errors as Consul lists them."""
        before, index = self.tables, self.index
        self.tables = before.fork()
        self.index += 1
        self._frozen = True  # all operations of a transaction have one index
        results: list[Json] = []
        errors: list[Json] = []
        for number, operation in enumerate(operations):
            try:
                results.extend(self._operate(operation))
            except Refused as refused:
                errors.append({"OpIndex": number, "What": str(refused)})
        self._frozen = False
        if errors:
            self.tables, self.index = before, index
        return ([], errors) if errors else (results, [])

    def restore(self, tables: Tables, *, index: int) -> None:
        """An older state comes back, as from a snapshot: the index falls."""
        self.tables, self.index = tables.fork(), index

    def save(self) -> tuple[Tables, int]:
        """What `restore` takes."""
        return copy.copy(self.tables.fork()), self.index

    def _operate(self, operation: Operation) -> list[Json]:
        if operation.kv is not None:
            return self._operate_kv(operation.kv)
        if operation.node is not None:
            wanted = operation.node.node
            if operation.node.verb == "set":
                self.set_node(wanted.node, wanted.address, wanted.meta)
                return [{"Node": {"Node": wanted.node, "Address": wanted.address, "Meta": wanted.meta}}]
            self.delete_node(wanted.node)
            return []
        if operation.service is not None:
            node, service = operation.service.node, operation.service.service
            if operation.service.verb == "set":
                row = service_row(node, service)
                self.set_service(row)
                return [{"Service": service_json(self.tables.services[node, row.id])}]
            if not service.service:
                raise Refused("Must provide service name (Service.Service) when service ID is provided")
            self.delete_service(node, service.id)
            return []
        if operation.check is not None:
            check = operation.check.check
            if operation.check.verb == "set":
                self.set_check(check_row(check))
                return [{"Check": check_json(self.tables.checks[check.node, check.check_id])}]
            self.delete_check(check.node, check.check_id)
        return []

    def _operate_kv(self, operation: KvOperation) -> list[Json]:
        key, index = operation.key, operation.index
        found = self.tables.keys.get(key)
        match operation.verb:
            case "set":
                self.put(key, operation.value or b"")
            case "cas":
                if not self.put(key, operation.value or b"", cas=index):
                    raise Refused(f'failed to set key "{key}", index is stale')
            case "get":
                if found is None:
                    raise Refused(f'key "{key}" doesn\'t exist')
                return [{"KV": key_json(key, found)}]
            case "delete":
                self.delete(key)
                return []
            case "delete-cas":
                if not self.delete(key, cas=index):
                    raise Refused(f'failed to delete key "{key}", index is stale')
                return []
            case "check-index":
                if found is None:
                    raise Refused(f'key "{key}" doesn\'t exist')
                if found.modify_index != index:
                    raise Refused(f"current modify index {found.modify_index} does not match {index}")
            case "check-not-exists":
                if found is not None:
                    raise Refused(f'key "{key}" exists')
                return []
            case "check-session":
                if found is None or found.session != operation.session:
                    raise Refused(f'failed session check for key "{key}"')
            case _:
                raise Refused(f'unknown KV verb "{operation.verb}"')
        return [{"KV": key_json(key, self.tables.keys[key]) | {"Value": None}}]

    def _put(self, key: str, value: bytes, flags: int, session: str, lock_index: int) -> None:
        old = self.tables.keys.get(key)
        if old is not None and (old.value, old.flags, old.session, old.lock_index) == (value, flags, session, lock_index):
            return  # an equal write changes nothing
        self._next()
        self.tables.kv_index = self.index
        self.tables.tombstones.pop(key, None)
        self.tables.keys[key] = Key(value, old.create_index if old else self.index, self.index, flags, session, lock_index)

    def _next(self) -> None:
        if not self._frozen:
            self.index += 1

    def _touch(self, *services: str) -> None:
        self.tables.catalog_index = self.index
        for service in services:
            self.tables.service_index[service] = self.index
