"""An instance of a service as every part of the runtime sees it."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv6Address, ip_address

import msgspec


class Status(StrEnum):
    """Health in Consul's words; the worst of an instance's checks."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"


_SEVERITY = {Status.PASSING: 0, Status.WARNING: 1, Status.CRITICAL: 2, Status.MAINTENANCE: 3}


def worst(*statuses: Status) -> Status:
    """The worst of them; passing where there is none."""
    return max(statuses, key=_SEVERITY.__getitem__, default=Status.PASSING)


class Instance(msgspec.Struct, frozen=True, gc=False):
    """One instance. Immutable, without a dict and safe to share between tasks; equal strings are stored once per process.

    `meta` holds sorted pairs. `weight` applies while passing, `weight_warning` while one of its checks warns.
    """

    id: str
    service: str
    address: str
    port: int
    status: Status = Status.PASSING
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    weight: int = 1
    weight_warning: int = 1
    node: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """A copy of the metadata."""
        return dict(self.meta)

    @property
    def zone(self) -> str:
        """The failure zone that the instance says it runs in; empty where it does not say."""
        return next((value for key, value in self.meta if key == "zone"), "")

    @property
    def serving(self) -> bool:
        """Whether it should get requests: a warning instance still works."""
        return self.status is Status.PASSING or self.status is Status.WARNING

    def url(self, path: str = "/", *, scheme: str = "") -> str:
        """An absolute URL on this instance. The scheme is the metadata's `scheme`, else http."""
        host = self.address
        try:
            if isinstance(ip_address(host), IPv6Address):
                host = f"[{host}]"
        except ValueError:
            pass  # a host name
        scheme = scheme or next((value for key, value in self.meta if key == "scheme"), "http")
        return f"{scheme}://{host}:{self.port}/{path.removeprefix('/')}"
