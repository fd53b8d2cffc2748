"""Redis in a stack: the keys and channels of each service that uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components import redis
from components.lib import versions
from components.lib.contracts import Use
from components.redis import Redis, RedisArgs, RedisClient
from stacks.kind import Given, Kind
from stacks.values import EngineSettings, ResourceSettings

if TYPE_CHECKING:
    from stacks.settings import StackSettings


class RedisSection(EngineSettings):
    """Redis. Its data may use three quarters of the memory."""

    resources: ResourceSettings = ResourceSettings(cpu_m=50, memory_mib=128)


def key_prefix(service: str) -> str:
    """What every key of a service begins with."""
    return f"{service}:"


def client(service: str) -> RedisClient:
    """A service's keys."""
    return RedisClient(service, keys=(f"{key_prefix(service)}*",))


def arguments(settings: StackSettings, given: Given) -> RedisArgs:
    """The server with a client for each service that uses it."""
    return RedisArgs(**given.common(settings, "redis"), clients=tuple(client(service) for service in settings.users("redis")))


def use(_settings: StackSettings, args: RedisArgs, service: str, required: bool) -> Use:  # noqa: FBT001 the catalogue's signature
    """A service's keys."""
    return redis.use(args, client(service), key_prefix=key_prefix(service), required=required)


KIND = Kind("redis", RedisSection, versions.REDIS, arguments, redis.describe, Redis, use)
