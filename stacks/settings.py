"""Everything a stack file may say, and the one place that reads it.

A stack file holds data only, under one key: `groundwork:settings`. `dev`, `prod` and `sandbox` differ in nothing else. A value that cannot
work is refused before any resource is registered, in a message with the key, the value, the stack file and the fix.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, cast

import pulumi
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from components import versions

KEY = "settings"
FOLDER = Path(__file__).resolve().parent.parent

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]  # RFC 1035: what a Service's name may be
Engine = Literal["postgres", "redis", "rabbitmq"]
PLATFORM_SERVICES = ("registry", "config")
RESERVED = ("postgres", "redis", "rabbitmq", "consul", "operator", *PLATFORM_SERVICES)


class InvalidStackFile(pulumi.RunError):
    """The stack file says something that cannot work. Pulumi prints the message alone and touches nothing."""


def is_cidr(value: str) -> str:
    """A block of addresses such as 10.0.0.0/8. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"is no block of addresses ({error}): write it like 10.0.0.0/8") from None


def is_pinned(value: str) -> str:
    """An image reference with an exact tag or digest. Raises ValueError for a moving one."""
    name, _, digest = value.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError("has no valid digest after `@`: write NAME@sha256: and 64 hexadecimal digits")
    if not digest and tag in {"", "latest", "stable", "edge"}:
        raise ValueError("names a moving image: write an exact tag such as :1.2.3, or a digest")
    if "bitnami" in value:
        raise ValueError("is a Bitnami image, which gets no updates any more: use the official one")
    return value


Cidr = Annotated[str, AfterValidator(is_cidr)]
ImageReference = Annotated[str, AfterValidator(is_pinned)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ResourceSettings(_Section):
    """One pod's CPU in millicores and memory in MiB."""

    cpu_m: Annotated[int, Field(ge=1)]
    memory_mib: Annotated[int, Field(ge=16)]
    cpu_limit_m: Annotated[int, Field(ge=1)] = 1000

    @model_validator(mode="after")
    def _limit_above_request(self) -> Self:
        if self.cpu_limit_m < self.cpu_m:
            raise ValueError(f"cpu_limit_m is {self.cpu_limit_m}, below the request cpu_m of {self.cpu_m}: raise the limit")
        return self


class ClusterSettings(_Section):
    """The cluster and what the platform must know of it. `operator_cidrs` are the addresses that may reach services from outside."""

    context: Annotated[str, StringConstraints(min_length=1)]
    domain: str = "cluster.local"
    storage_class: str | None = None
    pod_security_version: Annotated[str, StringConstraints(pattern=r"^v1\.\d+$")] = versions.POD_SECURITY_VERSION
    operator_cidrs: tuple[Cidr, ...] = ()
    dns_cidrs: tuple[Cidr, ...] = ()
    api_server_cidrs: tuple[Cidr, ...] = ("0.0.0.0/0",)
    api_server_ports: tuple[int, ...] = (443, 6443)
    issuer: str = "https://kubernetes.default.svc.cluster.local"
    jwks_url: str = "https://kubernetes.default.svc/openid/v1/jwks"


class BuildSettings(_Section):
    """Build the runtime image from app/Dockerfile and push it to `repository`; it is deployed by the digest that the push returns."""

    repository: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+$")]


class ImageSettings(_Section):
    """Where images come from. The engines default to the official ones of components/versions.py.

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

    @model_validator(mode="after")
    def _one_runtime(self) -> Self:
        if self.runtime and self.build:
            raise ValueError("runtime and build are both set: keep `runtime` to deploy a given image, or `build` to build and push one")
        if not self.runtime and not self.build:
            raise ValueError("neither runtime nor build is set: give `runtime` a digest, or `build.repository` a repository to push to")
        if self.runtime and "@sha256:" not in self.runtime and not self.runtime.startswith("localhost/"):
            raise ValueError("runtime has no digest: write NAME@sha256:..., so that what runs is what was tested")
        return self


class EngineSettings(_Section):
    """An engine's volume in GiB and its pod's resources."""

    storage_gib: Annotated[int, Field(ge=1)] = 1
    resources: ResourceSettings


class PostgresEngine(EngineSettings):
    """PostgreSQL."""

    resources: ResourceSettings = ResourceSettings(cpu_m=100, memory_mib=256)


class RedisEngine(EngineSettings):
    """Redis. Its data may use three quarters of the memory."""

    resources: ResourceSettings = ResourceSettings(cpu_m=50, memory_mib=128)


class RabbitmqEngine(EngineSettings):
    """RabbitMQ."""

    resources: ResourceSettings = ResourceSettings(cpu_m=100, memory_mib=512, cpu_limit_m=2000)


class ConsulEngine(EngineSettings):
    """Consul: one server, or three that survive the loss of one."""

    servers: Literal[1, 3] = 1
    resources: ResourceSettings = ResourceSettings(cpu_m=50, memory_mib=192)


class ReplicatedSettings(_Section):
    """One of the platform's own API services."""

    replicas: Annotated[int, Field(ge=1, le=50)] = 1
    resources: ResourceSettings = ResourceSettings(cpu_m=50, memory_mib=192)


class ServiceSettings(ReplicatedSettings):
    """A team's service.

    `command` are the arguments of the image's entry point, `image` defaults to the platform's own. `uses` names the engines it gets
    a database, keys or virtual host in; `optional` those of them that it is ready without; `calls` the services it calls.
    """

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    image: ImageReference | None = None
    port: Annotated[int, Field(ge=1024, le=65535)] = 8000
    uses: tuple[Engine, ...] = ()
    optional: tuple[Engine, ...] = ()
    calls: tuple[DnsLabel, ...] = ()

    @model_validator(mode="after")
    def _optional_is_used(self) -> Self:
        for engine in self.optional:
            if engine not in self.uses:
                raise ValueError(f"optional names {engine}, which `uses` does not: add it there, or remove it here")
        return self


class StackSettings(_Section):
    """A whole stack. `rotation` is bumped to change every client's credentials; `retain_data` keeps volumes when the stack is destroyed."""

    profile: Literal["dev", "prod"]
    namespace: DnsLabel | None = None
    rotation: Annotated[int, Field(ge=1)] = 1
    retain_data: bool = False
    cluster: ClusterSettings
    images: ImageSettings
    postgres: PostgresEngine = PostgresEngine()
    redis: RedisEngine = RedisEngine()
    rabbitmq: RabbitmqEngine = RabbitmqEngine()
    consul: ConsulEngine = ConsulEngine()
    registry: ReplicatedSettings = ReplicatedSettings()
    config: ReplicatedSettings = ReplicatedSettings()
    services: dict[DnsLabel, ServiceSettings] = Field(default_factory=dict[str, ServiceSettings])

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, service in self.services.items():
            if name in RESERVED:
                raise ValueError(f"services.{name} has the name of a part of the platform: choose another one")
            for called in service.calls:
                if called not in self.services and called not in PLATFORM_SERVICES:
                    raise ValueError(f"services.{name}.calls names {called}, which is no service of this stack: add it, or remove the call")
        if self.profile == "prod" and not self.retain_data:
            raise ValueError("retain_data is false in profile prod, where a destroy would delete the databases: set it to true")
        return self

    def namespace_of(self, stack: str) -> str:
        """The namespace of stack `stack`."""
        return self.namespace or f"groundwork-{stack}"


def explain(error: ErrorDetails, raw: Mapping[str, object], stack_file: str) -> str:
    """One problem as a sentence: the key, its value unless it may be secret, the stack file, and the fix."""
    path = [str(part) for part in error["loc"]]
    key = ".".join([KEY, *path])
    value: object = raw
    for part in path:
        value = cast("Mapping[str, object]", value).get(part) if isinstance(value, Mapping) else None  # pyright: ignore[reportUnnecessaryCast] only at first
    shown = "" if "pull_secret" in path or isinstance(value, Mapping | list) or value is None else f" = {value!r}"
    where = f"{key}{shown} in {stack_file}"
    command = f"pulumi config set --path {key} VALUE"
    match error["type"]:
        case "missing":
            return f"{where}: is missing. Set it: {command}"
        case "extra_forbidden":
            return f"{where}: no such key{did_you_mean(path)}. Remove it: pulumi config rm --path {key}"
        case "value_error":
            return f"{where}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}. Set it: {command}"


def did_you_mean(path: list[str]) -> str:
    """The nearest key that exists, as ` (did you mean ...?)`, or nothing."""
    model: type[BaseModel] | None = StackSettings
    for part in path[:-1]:
        field = model.model_fields.get(part) if model else None
        annotation = field.annotation if field else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    near = difflib.get_close_matches(path[-1], model.model_fields if model else ServiceSettings.model_fields, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def parse(raw: object, stack: str, *, is_secret: bool) -> StackSettings:
    """The settings of stack `stack`. `is_secret` says whether Pulumi keeps (a part of) them encrypted.

    Raises InvalidStackFile that lists every problem.
    """
    stack_file = f"Pulumi.{stack}.yaml"
    if not isinstance(raw, Mapping):
        raise InvalidStackFile(f"groundwork:{KEY} in {stack_file} is {'missing' if raw is None else 'no mapping'}: copy it from Pulumi.dev.yaml")
    values = cast("Mapping[str, object]", raw)
    try:
        settings = StackSettings.model_validate(with_tuples(values))
    except ValidationError as error:
        problems = [explain(detail, values, stack_file) for detail in error.errors(include_url=False)]
        raise InvalidStackFile("\n".join(["the stack file cannot be used; nothing was changed:", *(f"  - {p}" for p in problems)])) from None
    if settings.images.pull_secret is not None and not is_secret:
        raise InvalidStackFile(
            f"{KEY}.images.pull_secret in {stack_file} stands there in plain text; nothing was changed. "
            f"Encrypt it: pulumi config set --path --secret {KEY}.images.pull_secret, and renew what was exposed"
        )
    return settings


def with_tuples(value: object) -> object:
    """Lists as tuples, which strict frozen models take; everything else as it is."""
    if isinstance(value, Mapping):
        return {key: with_tuples(inner) for key, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return tuple(with_tuples(inner) for inner in cast("list[object]", value))
    return value


def load() -> StackSettings:
    """The settings of the stack that Pulumi runs. Raises InvalidStackFile."""
    config = pulumi.Config()
    for key in pulumi.runtime.get_config_env():
        if key.startswith(f"{config.name}:") and key != f"{config.name}:{KEY}":
            raise InvalidStackFile(f"{key} in Pulumi.{pulumi.get_stack()}.yaml: no such key. Everything stands under {config.name}:{KEY}")
    return parse(config.get_object(KEY), pulumi.get_stack(), is_secret=pulumi.runtime.is_config_secret(f"{config.name}:{KEY}"))


def stack_file(stack: str, folder: Path = FOLDER) -> Path:
    """The stack's file. Raises InvalidStackFile that names the stacks there are."""
    file = folder / f"Pulumi.{stack}.yaml"
    if not file.is_file():
        there = ", ".join(sorted(found.name.split(".")[1] for found in folder.glob("Pulumi.*.yaml")))
        raise InvalidStackFile(f"stack {stack!r} has no file {file.name}; there are: {there}. Choose one: make plan STACK=dev")
    return file


def read(stack: str, folder: Path = FOLDER) -> StackSettings:
    """The stack's settings, from its file. Raises InvalidStackFile."""
    try:
        document = cast("object", yaml.safe_load(stack_file(stack, folder).read_text()))
    except yaml.YAMLError as error:
        raise InvalidStackFile(f"Pulumi.{stack}.yaml is no YAML: {' '.join(str(error).split())}") from None
    config = cast("dict[str, object]", document).get("config") if isinstance(document, dict) else None
    values = cast("dict[str, object]", config) if isinstance(config, dict) else {}
    for key in values:
        if key.startswith("groundwork:") and key != f"groundwork:{KEY}":
            raise InvalidStackFile(f"{key} in Pulumi.{stack}.yaml: no such key. Everything stands under groundwork:settings")
    raw, encrypted = decrypted(values.get(f"groundwork:{KEY}"))
    return parse(raw, stack, is_secret=encrypted)


def decrypted(value: object) -> tuple[object, bool]:
    """`value` with Pulumi's `secure:` entries replaced by a marker, and whether there was one. A plan needs no passphrase."""
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        if set(entries) == {"secure"}:
            return "(encrypted)", True
        inner = {key: decrypted(item) for key, item in entries.items()}
        return {key: item for key, (item, _) in inner.items()}, any(secret for _, secret in inner.values())
    return value, False
