"""The sections that nearly every service has, ready to bind. No password has a default: it comes from a mounted secret."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseConfig(_Section):
    """A PostgreSQL database and how many connections to it to keep."""

    host: str
    port: Port = 5432
    database: str
    username: str
    password: SecretStr
    pool_size: Annotated[int, Field(ge=1)] = 10
    max_overflow: Annotated[int, Field(ge=0)] = 20


class RedisConfig(_Section):
    """A Redis server."""

    host: str
    port: Port = 6379
    database: Annotated[int, Field(ge=0)] = 0
    username: str = "default"
    password: SecretStr
    max_connections: Annotated[int, Field(ge=1)] = 100


class RateLimitConfig(_Section):
    """Requests per caller."""

    requests_per_minute: Annotated[int, Field(ge=1)] = 100
    requests_per_hour: Annotated[int, Field(ge=1)] = 1000


class CorsConfig(_Section):
    """What browsers may do from other origins: nothing, unless origins are named."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("GET", "POST", "PUT", "DELETE")
    headers: tuple[str, ...] = ("Authorization", "Content-Type")


class ApiGatewayConfig(_Section):
    """The gateway in front of the services."""

    host: str
    port: Port = 8000
    admin_port: Port = 8001
    rate_limit: RateLimitConfig = RateLimitConfig()
    cors: CorsConfig = CorsConfig()


class ServiceConfig(_Section):
    """All of it: `store.bind("", ServiceConfig)` needs every section; bind a section alone where a service uses only that."""

    database: DatabaseConfig
    redis: RedisConfig
    api_gateway: ApiGatewayConfig
