"""What a back end must offer. Discovery and configuration read through the same blocking read, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

from groundwork.discovery.models import Instance

T_co = TypeVar("T_co", covariant=True)


class Consistency(StrEnum):
    """How fresh an answer must be: `default` may miss the last write for a moment around an election, `consistent` never, `stale` may lag."""

    DEFAULT = "default"
    STALE = "stale"
    CONSISTENT = "consistent"


class Indexed(msgspec.Struct, Generic[T_co], frozen=True):
    """An answer and how far to trust it. `index` is at least 1; pass it as `after` to wait for the next change.

    `known_leader` and `last_contact_ms` are those of the server that answered. `filtered`: an access list removed something from it.
    `index_valid` False: the server gave no usable index, so the next read must not wait for one.
    """

    value: T_co
    index: int
    known_leader: bool = True
    last_contact_ms: int = 0
    filtered: bool = False
    index_valid: bool = True


class BlockingRead(Protocol[T_co]):
    """One question that can be asked again and again.

    `after` None: answer at once. Otherwise answer when the state has an index other than `after`, or after `wait` seconds with the same
    state. A return is no guarantee of a change. `consistent`: the answer must be the leader's own, confirmed by a quorum.
    An object that is equal to the last answer may be returned again; the reader then sees at once that nothing changed.

    Raises PlatformError of the kind that happened; "there is nothing" is an answer, never an error.
    """

    async def __call__(self, *, after: int | None = None, wait: float = 0.0, consistent: bool = False) -> Indexed[T_co]: ...


class ServiceQuery(msgspec.Struct, frozen=True):
    """Which instances to look at. `filter` is an expression in the back end's own language, evaluated there; the embedded one has none."""

    service: str
    filter: str = ""
    datacenter: str = ""


class ConfigEntry(msgspec.Struct, frozen=True):
    """A stored value: its key below the asked prefix's root (the whole key), bytes as written, and the index of its last change."""

    key: str
    value: bytes
    modify_index: int


class DiscoverySource(Protocol):
    """Where instances come from. Both reads answer with everything that is registered, healthy or not."""

    @property
    def name(self) -> str:
        """`memory` or `consul`."""
        ...

    def service(self, query: ServiceQuery) -> BlockingRead[tuple[Instance, ...]]:
        """A read of all instances of one service, sorted by id; empty where none is registered."""
        ...

    def services(self) -> BlockingRead[Mapping[str, tuple[str, ...]]]:
        """A read of the names of all services with the union of their tags."""
        ...


class ConfigSource(Protocol):
    """Where configuration is stored, as bytes under keys."""

    @property
    def name(self) -> str:
        """`memory` or `consul`."""
        ...

    def tree(self, prefix: str) -> BlockingRead[tuple[ConfigEntry, ...]]:
        """A read of all keys that begin with `prefix` (which ends in `/`), sorted by key; one answer is one atomic state."""
        ...

    async def get(self, key: str) -> ConfigEntry | None:
        """The value as the leader has it; None where there is none."""
        ...

    async def put(self, key: str, value: bytes, *, cas: int | None = None) -> ConfigEntry:
        """Write and return what is stored now. `cas` None writes always, 0 only where there is nothing, n only over `modify_index` n.

        Raises Conflict when `cas` does not hold, PayloadTooLarge above 512 KiB.
        """
        ...

    async def delete(self, key: str, *, cas: int | None = None) -> None:
        """Remove the value; an absent key is fine without `cas`. Raises Conflict when `cas` does not hold."""
        ...
