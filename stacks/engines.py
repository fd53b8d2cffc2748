"""What each engine of a stack is made of: the settings in the words of the components."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from components import consul, postgres, rabbitmq, redis
from components.consul import ConsulArgs, ConsulClient, ConsulRole
from components.contracts import Edge, Placement, ServerTls
from components.postgres import PostgresArgs, PostgresClient
from components.rabbitmq import RabbitmqArgs, RabbitmqClient
from components.redis import RedisArgs, RedisClient
from components.workload import Demand, Resources
from stacks.settings import Engine, ResourceSettings, StackSettings


def resources(settings: ResourceSettings) -> Resources:
    """A pod's resources as the components know them."""
    return Resources(cpu_m=settings.cpu_m, memory_mib=settings.memory_mib, cpu_limit_m=settings.cpu_limit_m)


def database(service: str) -> str:
    """The name of a service's database: hyphens would need quotes in SQL."""
    return service.replace("-", "_")


def key_prefix(service: str) -> str:
    """What every key of a service begins with in Redis."""
    return f"{service}:"


def users(settings: StackSettings, engine: Engine) -> tuple[str, ...]:
    """The services that use an engine, in order of their names."""
    return tuple(sorted(name for name, entry in settings.services.items() if engine in entry.uses))


@dataclass(frozen=True)
class Engines:
    """The arguments of the four engines."""

    postgres: PostgresArgs
    redis: RedisArgs
    rabbitmq: RabbitmqArgs
    consul: ConsulArgs

    def edges(self) -> tuple[Edge, ...]:
        """The edges of the engines' own parts."""
        return (
            *postgres.edges("postgres", self.postgres),
            *redis.edges("redis", self.redis),
            *rabbitmq.edges("rabbitmq", self.rabbitmq),
            *consul.edges("consul", self.consul),
        )

    def demand(self) -> Demand:
        """What the engines need together."""
        return postgres.demand(self.postgres) + redis.demand(self.redis) + rabbitmq.demand(self.rabbitmq) + consul.demand(self.consul)


def arguments(settings: StackSettings, at: Placement, runtime: pulumi.Input[str], tls: dict[str, ServerTls]) -> Engines:
    """The four engines with one client for each service that uses them; Consul has every service as a reader."""
    images, rotation, retain = settings.images, settings.rotation, settings.retain_data
    return Engines(
        PostgresArgs(
            at,
            image=images.postgres,
            accounts_image=runtime,
            tls=tls["postgres"],
            clients=tuple(PostgresClient(name, database(name)) for name in users(settings, "postgres")),
            resources=resources(settings.postgres.resources),
            storage_gib=settings.postgres.storage_gib,
            rotation=rotation,
            retain_data=retain,
        ),
        RedisArgs(
            at,
            image=images.redis,
            tls=tls["redis"],
            clients=tuple(RedisClient(name, keys=(f"{key_prefix(name)}*",)) for name in users(settings, "redis")),
            resources=resources(settings.redis.resources),
            storage_gib=settings.redis.storage_gib,
            rotation=rotation,
            retain_data=retain,
        ),
        RabbitmqArgs(
            at,
            image=images.rabbitmq,
            accounts_image=runtime,
            tls=tls["rabbitmq"],
            clients=tuple(RabbitmqClient(name, vhost=name) for name in users(settings, "rabbitmq")),
            resources=resources(settings.rabbitmq.resources),
            storage_gib=settings.rabbitmq.storage_gib,
            rotation=rotation,
            retain_data=retain,
        ),
        ConsulArgs(
            at,
            image=images.consul,
            accounts_image=runtime,
            tls=tls["consul"],
            clients=(
                ConsulClient("registry", (ConsulRole.REGISTRY_WRITER,)),
                ConsulClient("config", (ConsulRole.CONFIG_WRITER,)),
                *(ConsulClient(name) for name in sorted(settings.services)),
            ),
            servers=settings.consul.servers,
            resources=resources(settings.consul.resources),
            storage_gib=settings.consul.storage_gib,
            rotation=rotation,
            retain_data=retain,
        ),
    )
