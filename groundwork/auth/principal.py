"""Who calls and what they may do."""

from __future__ import annotations

import re
from dataclasses import dataclass

REGISTRY_READ, REGISTRY_WRITE, REGISTRY_ADMIN = "registry:read", "registry:write", "registry:admin"
CONFIG_READ, CONFIG_WRITE = "config:read", "config:write"
HEALTH_DETAILS = "health:details"

_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:(?P<namespace>[a-z0-9-]{1,63}):(?P<name>[a-z0-9.-]{1,253})")


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller. `service` is the service name that it owns, None where it owns none."""

    subject: str
    issuer: str = ""
    scopes: frozenset[str] = frozenset()
    service: str | None = None
    everything: bool = False

    def may(self, scope: str) -> bool:
        """Whether the caller has `scope`."""
        return self.everything or scope in self.scopes

    def owns(self, service_name: str) -> bool:
        """Whether the caller may register and remove instances of `service_name`."""
        return self.everything or self.service == service_name or REGISTRY_ADMIN in self.scopes


ANONYMOUS = Principal(subject="anonymous", everything=True)
"""Everybody, while authentication is off: allowed everything. Profile `prod` never uses it."""


def owned_service(subject: str, claimed: object, namespaces: tuple[str, ...]) -> str | None:
    """The service that a token owns: its `svc` claim, else the name of the ServiceAccount that `sub` names.

    `namespaces` empty: ServiceAccounts of any namespace.
    """
    if isinstance(claimed, str) and claimed:
        return claimed
    account = _SERVICE_ACCOUNT.fullmatch(subject)
    if account is None or (namespaces and account["namespace"] not in namespaces):
        return None
    return account["name"]
