"""Instances and service names read from Consul, compact: 10,000 instances cost a few megabytes and never hold up the loop for long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from operator import attrgetter
from sys import intern
from typing import Generic, TypeVar

import msgspec

from groundwork.backends.base import BlockingRead, Consistency, Indexed, ServiceQuery
from groundwork.consul.client import ConsulClient, health_params, service_path, with_value
from groundwork.consul.errors import BadAnswer
from groundwork.discovery.models import Instance, Status, worst

T = TypeVar("T")

_SLICE = 250  # instances decoded before other tasks get a turn: about 2 ms
_LARGE = 256 * 1024  # bytes from which the digest is made in a thread, which needs no GIL


class _Node(msgspec.Struct, rename="pascal", gc=False):
    node: str
    address: str = ""


class _Weights(msgspec.Struct, rename="pascal", gc=False):
    passing: int = 1
    warning: int = 1


class _Service(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID")
    service: str
    address: str = ""
    port: int = 0
    tags: list[str] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None


class _Check(msgspec.Struct, rename="pascal", gc=False):
    status: str
    check_id: str = msgspec.field(name="CheckID", default="")


class _Entry(msgspec.Struct, rename="pascal"):
    node: _Node
    service: _Service
    checks: list[_Check] | None = None


_ENTRIES: msgspec.json.Decoder[list[msgspec.Raw] | None] = msgspec.json.Decoder(list[msgspec.Raw] | None)
_ENTRY = msgspec.json.Decoder(_Entry)
_NAMES = msgspec.json.Decoder(dict[str, tuple[str, ...]])
_STATUS = {status.value: status for status in Status}


class _Unchanged(Generic[T]):
    """Remembers the last body by its digest and what was decoded from it, so that equal bytes are not decoded again."""

    def __init__(self) -> None:
        self._digest = b""
        self._value: T | None = None

    async def known(self, body: bytearray) -> tuple[bytes, T | None]:
        """The body's digest and, where it is that of the last one, its value."""
        digest = await asyncio.to_thread(_digest, body) if len(body) > _LARGE else _digest(body)
        return digest, self._value if digest == self._digest else None

    def remember(self, digest: bytes, value: T) -> T:
        """This is what the body stands for."""
        self._digest, self._value = digest, value
        return value


def _digest(body: bytearray) -> bytes:
    return blake2b(body, digest_size=16).digest()


def _instance(entry: _Entry, pool: dict[object, object]) -> Instance:
    """What the runtime needs of an entry. Tags and metadata that are equal are kept once per answer, strings once per process."""
    service = entry.service
    tags = tuple(map(intern, service.tags or ()))
    meta = tuple(sorted((intern(key), intern(value)) for key, value in (service.meta or {}).items()))
    weights = service.weights or _Weights()
    return Instance(
        id=service.id.removeprefix(f"{service.service}/"),  # the registry's own ids in the catalog, where all services share a node
        service=intern(service.service),
        address=service.address or entry.node.address,  # a service without an address has its node's
        port=_kept(pool, service.port),
        status=_status(entry.checks or []),
        tags=_kept(pool, tags),
        meta=_kept(pool, meta),
        weight=weights.passing,
        weight_warning=weights.warning,
        node=intern(entry.node.node),
    )


def _kept(pool: dict[object, object], value: T) -> T:
    return pool.setdefault(value, value)  # pyright: ignore[reportReturnType] a value is kept under itself


def _status(checks: list[_Check]) -> Status:
    """The worst of all checks; maintenance is a critical check with a reserved name."""
    found = Status.PASSING
    for check in checks:
        if check.check_id == "_node_maintenance" or check.check_id.startswith("_service_maintenance:"):
            return Status.MAINTENANCE
        if check.status != "passing":
            found = worst(found, _STATUS.get(check.status, Status.CRITICAL))
    return found


async def decode_instances(body: bytearray, before: tuple[Instance, ...] = ()) -> tuple[Instance, ...]:
    """The instances of a health answer, sorted by id. Those equal to one `before` are that object again.

    Raises BadAnswer where the body is something else.
    """
    known = {instance.id: instance for instance in before}
    pool: dict[object, object] = {}
    found: list[Instance] = []
    try:
        entries = _ENTRIES.decode(body) or []
        for start in range(0, len(entries), _SLICE):
            if start:
                await asyncio.sleep(0)
            for raw in entries[start : start + _SLICE]:
                instance = _instance(_ENTRY.decode(raw), pool)
                old = known.get(instance.id)
                found.append(old if old == instance and old is not None else instance)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"Consul's list of instances cannot be read ({error}): does a proxy answer instead?") from None
    found.sort(key=_BY_ID)
    return tuple(found)


_BY_ID = attrgetter("id")


class _ServiceRead:
    def __init__(self, client: ConsulClient, query: ServiceQuery, *, cached: bool, consistency: Consistency) -> None:
        self._client = client
        self._path = f"/v1/health/service/{service_path(query.service, 'service')}"
        self._params = health_params(filter_=query.filter, datacenter=query.datacenter, cached=cached)
        self._uncached = health_params(filter_=query.filter, datacenter=query.datacenter)
        self._consistency = consistency
        self._last: _Unchanged[tuple[Instance, ...]] = _Unchanged()
        self._before: tuple[Instance, ...] = ()

    async def __call__(self, *, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[tuple[Instance, ...]]:
        consistency = Consistency.CONSISTENT if consistent else self._consistency
        params = self._uncached if consistent else self._params
        answer, meta = await self._client.read("health_service", self._path, params, index=after, wait=wait, consistency=consistency)
        if answer.status == 404:
            raise BadAnswer("a 404 to a question about health is not Consul's: does consul.address lead to Consul itself, without a path?")
        digest, value = await self._last.known(answer.body)
        if value is None:
            value = self._last.remember(digest, await decode_instances(answer.body, self._before))
            self._before = value
        return with_value(meta, value)


class _NamesRead:
    def __init__(self, client: ConsulClient, consistency: Consistency) -> None:
        self._client = client
        self._consistency = consistency
        self._last: _Unchanged[Mapping[str, tuple[str, ...]]] = _Unchanged()

    async def __call__(self, *, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[Mapping[str, tuple[str, ...]]]:
        consistency = Consistency.CONSISTENT if consistent else self._consistency
        answer, meta = await self._client.read("catalog_services", "/v1/catalog/services", {}, index=after, wait=wait, consistency=consistency)
        digest, value = await self._last.known(answer.body)
        if value is None:
            try:
                value = _NAMES.decode(answer.body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise BadAnswer(f"Consul's list of services cannot be read ({error}): does a proxy answer instead?") from None
            self._last.remember(digest, value)
        return with_value(meta, value)


class ConsulDiscoverySource:
    """A DiscoverySource on Consul. `cached` lets the agent answer from its own cache, for node-local agents with many clients."""

    name = "consul"

    def __init__(self, client: ConsulClient, *, cached: bool = False, consistency: Consistency = Consistency.DEFAULT) -> None:
        self._client = client
        self._cached = cached
        self._consistency = consistency

    def service(self, query: ServiceQuery) -> BlockingRead[tuple[Instance, ...]]:
        """All instances of one service, sorted by id."""
        return _ServiceRead(self._client, query, cached=self._cached, consistency=self._consistency)

    def services(self) -> BlockingRead[Mapping[str, tuple[str, ...]]]:
        """The names of all services with the union of their tags, Consul's own `consul` among them."""
        return _NamesRead(self._client, self._consistency)
