"""What a back end must offer to the registry. The rules stand in `groundwork.registry`; a back end only stores, and never loses a race."""

from __future__ import annotations

from typing import Protocol

from groundwork.registry.models import Listing, Record, Stored


class RegistryBackend(Protocol):
    """Keeps records. Whoever discovers sees a record's instance from the moment its write returned, and never a part of a write.

    Every method raises BackendUnavailable or PermissionDenied where it cannot do its work.
    """

    @property
    def name(self) -> str:
        """`memory` or `consul`."""
        ...

    async def get(self, service: str, service_id: str) -> Stored | None:
        """The record as the leader has it; None where there is none. Raises UnreadableRecord where it cannot be read."""
        ...

    async def find(self, service_id: str) -> tuple[Stored, ...]:
        """The instances of that id, of whatever service."""
        ...

    async def count(self, service: str) -> int:
        """How many instances of a service are stored."""
        ...

    async def list(self) -> Listing:
        """All records."""
        ...

    async def page(self, after: str, limit: int) -> Listing:
        """At most `limit` records whose name comes after `after`."""
        ...

    async def create(self, record: Record) -> Stored:
        """Store a new record. Raises Conflict where the id exists."""
        ...

    async def replace(self, known: Stored, record: Record) -> Stored:
        """Store `record` over `known`. Raises Conflict where that has changed or is gone."""
        ...

    async def remove(self, known: Stored) -> None:
        """Forget `known`. Raises Conflict where it has changed or is gone."""
        ...

    async def reconcile(self) -> int:
        """Make what others discover agree with the records, where this process leads; how many instances were mended."""
        ...

    async def lead(self) -> bool:
        """Whether this process is the one that ends leases now. Ask before each sweep."""
        ...

    async def close(self) -> None:
        """Give back leadership. Never raises."""
        ...
