"""PostgreSQL in a stack: a database for each service that uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from components import postgres
from components.lib import versions
from components.lib.contracts import Use
from components.postgres import Postgres, PostgresArgs, PostgresClient
from stacks.kind import Given, Kind
from stacks.values import EngineSettings, ResourceSettings

if TYPE_CHECKING:
    from stacks.settings import StackSettings


class PostgresSection(EngineSettings):
    """PostgreSQL. `max_connections` is computed from the services' pools unless it is set."""

    resources: ResourceSettings = ResourceSettings(cpu_m=100, memory_mib=256)
    max_connections: Annotated[int, Field(ge=1, le=262143)] | None = None  # PostgreSQL's own bounds


def client(settings: StackSettings, service: str) -> PostgresClient:
    """A service's database (hyphens would need quotes in SQL), and its pods' pools, each with a connection more for the health check.

    In a rolling update there are twice the pods.
    """
    entry = settings.services[service]
    return PostgresClient(service, service.replace("-", "_"), connections=2 * entry.replicas * (entry.pool_size + 1))


def arguments(settings: StackSettings, given: Given) -> PostgresArgs:
    """The server with a client for each service that uses it."""
    clients = tuple(client(settings, service) for service in settings.users("postgres"))
    return PostgresArgs(**given.common(settings, "postgres"), clients=clients, max_connections=settings.postgres.max_connections)


def use(settings: StackSettings, args: PostgresArgs, service: str, required: bool) -> Use:  # noqa: FBT001 the catalogue's signature
    """A service's database."""
    return postgres.use(args, client(settings, service), pool_size=settings.services[service].pool_size, required=required)


KIND = Kind("postgres", PostgresSection, versions.POSTGRES, arguments, postgres.describe, Postgres, use)
