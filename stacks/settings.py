"""Everything a stack file may say.

A stack file holds data only, under one key: `groundwork:settings`. `dev`, `prod` and `sandbox` differ in nothing else. What a value must
be by itself stands here; what must hold between several of them in stacks/rules.py; stacks/stackfile.py reads the file.
"""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import Field, SecretStr, StringConstraints

from components import service as services
from components.lib import accounts, versions
from stacks.kinds.consul import ConsulSection
from stacks.kinds.postgres import PostgresSection
from stacks.kinds.rabbitmq import RabbitmqSection
from stacks.kinds.redis import RedisSection
from stacks.values import (
    Cidr,
    DnsLabel,
    DnsName,
    EngineSettings,
    Filled,
    ImageReference,
    LabelKey,
    LabelValue,
    Port,
    ResourceSettings,
    Section,
    ServiceName,
    Sized,
    Url,
)

KEY = "settings"
PLATFORM_SERVICES = ("registry", "config")


class DnsSettings(Section):
    """The cluster's DNS servers, where what the cluster says of them is not right: pods of a namespace by their labels, the ports of those
    pods, and addresses of caches on the nodes.
    """

    namespace: DnsLabel = "kube-system"
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict[str, str])
    ports: Annotated[tuple[Port, ...], Filled] = (53,)
    cidrs: tuple[Cidr, ...] = ()


class ClusterSettings(Section):
    """The cluster, and what to say of it in the place of what it says itself: the issuer of its tokens and where its keys are
    (`jwks_cidrs` are the addresses of a `jwks_url` outside of it), its API server, its DNS servers, its network plugin.
    `operator_cidrs` are the addresses that may reach services from outside.
    """

    context: Annotated[str, StringConstraints(min_length=1)]
    domain: DnsName = "cluster.local"
    storage_class: DnsName | None = None
    pod_security_version: Annotated[str, StringConstraints(pattern=r"^v1\.\d+$")] = versions.POD_SECURITY_VERSION
    operator_cidrs: tuple[Cidr, ...] = ()
    issuer: Url | None = None
    jwks_url: Url | None = None
    jwks_cidrs: tuple[Cidr, ...] = ()
    api_server_cidrs: tuple[Cidr, ...] | None = None
    api_server_ports: tuple[Port, ...] | None = None
    dns: DnsSettings | None = None
    network_plugin: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")] | None = None


class BuildSettings(Section):
    """Build the runtime image from app/Dockerfile for the nodes' `platform` and push it to `repository`; it is deployed by the digest that
    the push returns.
    """

    repository: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+$")]
    platform: Literal["linux/amd64", "linux/arm64"] = "linux/amd64"


class ImageSettings(Section):
    """Where images come from. The engines default to the official ones of components/lib/versions.py.

    Exactly one of `runtime` (a digest, or a local content tag) and `build` says where the platform's own image comes from.
    `pull_secret` is a Docker configuration as JSON, and must be a Pulumi secret.
    """

    postgres: ImageReference = versions.POSTGRES.reference
    redis: ImageReference = versions.REDIS.reference
    rabbitmq: ImageReference = versions.RABBITMQ.reference
    consul: ImageReference = versions.CONSUL.reference
    runtime: ImageReference | None = None
    build: BuildSettings | None = None
    pull_secret: SecretStr | None = None

    def of(self, kind: str) -> str:
        """The image of an engine."""
        return cast("str", getattr(self, kind))


class CertificateSettings(Section):
    """The authorities of the stack's certificates, counted: those that clients trust, and the one of them that signs."""

    authority: Annotated[int, Field(ge=1)] = 1
    trusted: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Filled] = (1,)


class ReplicatedSettings(Sized):
    """One of the platform's own API services."""

    replicas: Annotated[int, Field(ge=1, le=50)] = 1
    resources: ResourceSettings = ResourceSettings(cpu_m=50, memory_mib=192)


class ServiceSettings(ReplicatedSettings):
    """A team's service.

    `command` are the arguments of the image's entry point, `image` defaults to the platform's own. `uses` names the engines it gets
    a database, keys or virtual host in; `optional` those of them that it is ready without; `calls` the services it calls. `pool_size` is
    how many connections to PostgreSQL each of its pods may hold.
    """

    command: Annotated[tuple[str, ...], Filled]
    image: ImageReference | None = None
    port: int = services.HTTP_PORT
    uses: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    calls: tuple[ServiceName, ...] = ()
    pool_size: Annotated[int, Field(ge=1, le=100)] = 8


class StackSettings(Section):
    """A whole stack, whose own name may have at most 50 of a-z, 0-9 and -.

    `rotation` is bumped to change every client's credentials; `retain_data` keeps volumes when the stack is destroyed. A service is named
    with at most 58 of a-z, 0-9 and -, a letter first, and not like a part of the platform.
    """

    profile: Literal["dev", "prod"]
    namespace: DnsLabel | None = None
    rotation: Annotated[int, Field(ge=1, le=accounts.MAX_ROTATION)] = 1
    retain_data: bool = False
    cluster: ClusterSettings
    images: ImageSettings
    certificates: CertificateSettings = CertificateSettings()
    postgres: PostgresSection = PostgresSection()
    redis: RedisSection = RedisSection()
    rabbitmq: RabbitmqSection = RabbitmqSection()
    consul: ConsulSection = ConsulSection()
    registry: ReplicatedSettings = ReplicatedSettings()
    config: ReplicatedSettings = ReplicatedSettings()
    services: dict[ServiceName, ServiceSettings] = Field(default_factory=dict[str, ServiceSettings])

    def namespace_of(self, stack: str) -> str:
        """The namespace of stack `stack`."""
        return self.namespace or f"groundwork-{stack}"

    def engine(self, kind: str) -> EngineSettings:
        """The section of an engine."""
        return cast("EngineSettings", getattr(self, kind))

    def users(self, kind: str) -> tuple[str, ...]:
        """The services that use an engine, in order of their names."""
        return tuple(sorted(name for name, entry in self.services.items() if kind in entry.uses))
