"""Who calls and what they may do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from groundwork.settings import IssuerSettings

REGISTRY_READ, REGISTRY_WRITE, REGISTRY_ADMIN = "registry:read", "registry:write", "registry:admin"
CONFIG_READ, CONFIG_OWN, CONFIG_WRITE = "config:read", "config:own", "config:write"  # to read all, to write one's own, to write all
HEALTH_DETAILS = "health:details"
SHARED = "application"  # the configuration of all services stands under this name

_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:(?P<namespace>[a-z0-9-]{1,63}):(?P<name>[a-z0-9.-]{1,253})")


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller. `service` is the service name that it owns, None where it owns none. Until `expires` (Unix time) its token is accepted."""

    subject: str
    issuer: str = ""
    scopes: frozenset[str] = frozenset()
    service: str | None = None
    everything: bool = False
    expires: float | None = None

    @property
    def identity(self) -> tuple[str, str]:
        """Who it is: two issuers may give two callers the same name."""
        return self.issuer, self.subject

    def may(self, scope: str) -> bool:
        """Whether the caller has `scope`."""
        return self.everything or scope in self.scopes

    def owns(self, service_name: str) -> bool:
        """Whether the caller may register and remove instances of `service_name`."""
        return self.everything or self.service == service_name or REGISTRY_ADMIN in self.scopes

    def configures(self, service_name: str) -> bool:
        """Whether the caller may write the configuration of `service_name`. What all services share belongs to none of them."""
        if self.everything or CONFIG_WRITE in self.scopes:
            return True
        return CONFIG_OWN in self.scopes and self.service == service_name and service_name != SHARED


ANONYMOUS = Principal(subject="anonymous", everything=True)
"""Everybody, while authentication is off: allowed everything. Profile `prod` never uses it."""


def owned_service(subject: str, claimed: object, settings: IssuerSettings) -> str | None:
    """The service that a token owns, as far as its issuer may say so: its `svc` claim, else the name of the ServiceAccount that `sub` names."""
    if isinstance(claimed, str) and claimed in settings.services:
        return claimed
    account = _SERVICE_ACCOUNT.fullmatch(subject)
    return account["name"] if account is not None and account["namespace"] in settings.namespaces else None
