"""Consul in a stack: a token for every service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from components import consul
from components.consul import Consul, ConsulArgs, ConsulClient, ConsulRole
from components.lib import versions
from components.lib.contracts import Use
from stacks.kind import Given, Kind
from stacks.values import EngineSettings, ResourceSettings

if TYPE_CHECKING:
    from stacks.settings import StackSettings

ROLES = {"registry": (ConsulRole.REGISTRY_WRITER,), "config": (ConsulRole.CONFIG_WRITER,)}


class ConsulSection(EngineSettings):
    """Consul: one server, or three that survive the loss of one."""

    servers: Literal[1, 3] = 1
    resources: ResourceSettings = ResourceSettings(cpu_m=50, memory_mib=192)


def client(service: str) -> ConsulClient:
    """A service's token: only the platform's own services write."""
    return ConsulClient(service, ROLES.get(service, (ConsulRole.READER,)))


def arguments(settings: StackSettings, given: Given) -> ConsulArgs:
    """The servers with a client for every service. In production no two of them share a node."""
    clients = tuple(client(service) for service in (*ROLES, *sorted(settings.services)))
    apart = settings.profile == "prod"
    return ConsulArgs(**given.common(settings, "consul"), clients=clients, servers=settings.consul.servers, apart=apart)


def use(_settings: StackSettings, args: ConsulArgs, service: str, required: bool) -> Use:  # noqa: FBT001 the catalogue's signature
    """A service's token."""
    return consul.use(args, client(service), required=required)


def servers(section: EngineSettings) -> int:
    """How many servers there are."""
    return section.servers if isinstance(section, ConsulSection) else 1


KIND = Kind(
    "consul",
    ConsulSection,
    versions.CONSUL,
    arguments,
    consul.describe,
    Consul,
    use,
    servers=servers,
    for_all=True,
    dns_names=(consul.SERVER_SAN,),
)
