"""What changed in the configuration: worked out and encoded once for all who listen, and kept for a while for who was away."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from app.api.events import Event
from groundwork.backends.base import ConfigEntry
from groundwork.consul.watch import Update

KEPT = 1024  # changes


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a key: the event that tells it, and when it was."""

    key: str
    index: int
    event: Event


class ChangeLog:
    """The last changes below `prefix`, in their order. Positions count changes since the start; `index` is that of the newest state."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._changes: deque[Change] = deque()
        self._state: Mapping[str, int] | None = None
        self._complete_since = 0
        self.index = 0
        self.end = 0

    def seen(self, update: Update[tuple[ConfigEntry, ...]]) -> None:
        """A state that the watch has seen. Every one of them comes here, before any stream wakes."""
        now = {entry.key: entry.modify_index for entry in update.value}
        before, self._state = self._state, now
        if before is None or update.reset:
            self._changes.clear()
            self._complete_since = update.index  # indexes of before compare with nothing
        self.index = update.index
        for change in () if before is None else self._difference(before, now, update.index):
            self._changes.append(change)
            self.end += 1
        while len(self._changes) > KEPT:
            self._complete_since = max(self._complete_since, self._changes.popleft().index)

    def forget(self) -> None:
        """The watch has ended: what happens from now on is not seen."""
        self._changes.clear()
        self._state = None

    def position(self, seen: int) -> int | None:
        """Where somebody goes on who has seen everything up to index `seen`; None where changes since then may be missing here."""
        if not self._complete_since <= seen <= self.index:
            return None
        return self.end - sum(change.index > seen for change in self._changes)

    def after(self, position: int) -> list[Change] | None:
        """The changes from a position on; None where some of them are no longer kept."""
        wanted = self.end - position
        return None if wanted > len(self._changes) else list(self._changes)[len(self._changes) - wanted :]

    def _difference(self, before: Mapping[str, int], now: Mapping[str, int], index: int) -> list[Change]:
        """Sorted by index, which only the last change of each carries: whoever has seen it has seen all of them."""
        found = sorted((now.get(key, index), key) for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        changes: list[Change] = []
        for at, group in groupby(found, key=lambda pair: pair[0]):
            keys = [key for _, key in group]
            for key in keys:
                kind = "created" if key not in before else "deleted" if key not in now else "updated"
                data = {"key": key.removeprefix(self._prefix), "kind": kind, "index": at}
                changes.append(Change(key, at, Event("config.changed", at if key == keys[-1] else None, data)))
        return changes
