"""The one schema of `settings.json`, which the platform mounts into every service. Environment variables override it.

The file holds nothing secret: credentials lie beside it as files, in the folders that the settings name, and are read at the
time of use, so that a rotation needs no new settings. `PLATFORM_REDIS__HOST=...` overrides `redis.host`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, JsonConfigSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from groundwork.errors import InvalidRequest, InvalidSettings

MOUNT = Path("/run/groundwork")
SETTINGS_FILE_VARIABLE = "PLATFORM_SETTINGS_FILE"
HTTP_PORT = 8000
METRICS_PORT = 9000

ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]  # an RFC 1123 label
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSection(_Section):
    """What a service knows of one engine. It stands in `Settings` under the name of its kind, see `groundwork.engines.ENGINES`.

    `ca` holds the certificates that the server is verified with, one or several. `required` decides the service's readiness.
    """

    ca: Path | None = None
    required: bool = True


class ServerSection(EngineSection):
    """An engine at `host` and `port`, which knows the service by the files `username` and `password` in the folder `credentials`.

    `ca` None means no TLS: for a server on the developer's own machine.
    """

    host: str
    port: Port
    credentials: Path | None = None

    def credential(self) -> tuple[str, SecretStr]:
        """User name and password as they are on disk now.

        Raises InvalidSettings where a file is missing.
        """
        if self.credentials is None:
            return "", SecretStr("")
        # The kubelet swaps a mounted folder whole: both files come from one of them, never a name and the next name's password.
        folder = self.credentials.resolve()
        try:
            return read_secret(folder / "username").get_secret_value(), read_secret(folder / "password")
        except InvalidSettings:
            if self.credentials.resolve() == folder:
                raise
            return self.credential()


class PostgresSettings(ServerSection):
    """The service's database. `pool_size` is the most connections that one process keeps for its work; the health check has one more."""

    port: Port = 5432
    database: str
    pool_size: Annotated[int, Field(ge=1, le=100)] = 8


class RedisSettings(ServerSection):
    """The service's share of Redis: every key it uses begins with `key_prefix`."""

    port: Port = 6379
    key_prefix: str = ""


class RabbitmqSettings(ServerSection):
    """The service's virtual host on RabbitMQ."""

    port: Port = 5671
    vhost: str = "/"


class ConsulSettings(EngineSection):
    """Consul's HTTP API, as a full URL, and the file with the service's token (read again when it changes).

    `client_cert` and `client_key` are our side of mutual TLS, for a Consul that asks for it.
    """

    address: str
    token_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    required: bool = False

    @field_validator("address")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must be a URL such as https://consul:8501")
        return value.rstrip("/")


class RegistrySettings(_Section):
    """The registry's REST API and the file with the token that proves who the caller is (a projected ServiceAccount token)."""

    url: str
    token_file: Path | None = None


class IssuerSettings(_Section):
    """One issuer whose tokens the APIs accept, and what it may speak for: what is not named here its tokens cannot claim.

    `jwks_token_file` is presented to the key set's URL (a cluster's API server wants one). `scopes` are granted to every valid token of the
    issuer, for issuers that put none into their tokens (ServiceAccount tokens).
    """

    issuer: str
    jwks_url: str
    audience: str
    jwks_ca: Path | None = None
    jwks_token_file: Path | None = None
    scopes: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()  # whose ServiceAccounts own the service of their name
    subject_scopes: Mapping[str, tuple[str, ...]] = {}  # further scopes of single subjects, such as an operator's account
    services: tuple[ServiceName, ...] = ()  # that a token may claim to own by its claim `svc`
    token_scopes: tuple[str, ...] = ()  # that a token may bring by its claim `scope` or `scp`


class AuthSettings(_Section):
    """Whose tokens are accepted. No issuer means that authentication is off, which profile `prod` refuses."""

    issuers: tuple[IssuerSettings, ...] = ()

    @field_validator("issuers")
    @classmethod
    def _once_each(cls, issuers: tuple[IssuerSettings, ...]) -> tuple[IssuerSettings, ...]:
        names = [one.issuer for one in issuers]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"issuer {min(twice)} stands twice: only one entry could count, so write all of it into one")
        return issuers


class Settings(BaseSettings):
    """Everything a service must know at start. Read it with `load()`."""

    model_config = SettingsConfigDict(env_prefix="PLATFORM_", env_nested_delimiter="__", extra="forbid", frozen=True, allow_inf_nan=False)

    service: ServiceName
    profile: Literal["dev", "prod"] = "dev"
    instance_id: str = Field(default_factory=socket.gethostname)
    address: str = "127.0.0.1"
    http_port: Port = HTTP_PORT
    metrics_port: Port = METRICS_PORT
    version: str = "0"
    zone: str = ""
    tags: tuple[str, ...] = ()
    backend: Literal["memory", "consul"] | None = None
    registry: RegistrySettings | None = None
    consul: ConsulSettings | None = None
    postgres: PostgresSettings | None = None
    redis: RedisSettings | None = None
    rabbitmq: RabbitmqSettings | None = None
    auth: AuthSettings = AuthSettings()
    config_prefix: str = "config/"
    config_wait_seconds: Annotated[float, Field(ge=0)] = 10.0  # for the first answer, while a service that binds a model is not ready
    fail_fast: bool | None = None  # after that wait: stay unready (true, as in `prod`) or serve the code's defaults and say so (as in `dev`)
    ttl_seconds: Annotated[float, Field(gt=0)] = 30.0
    deregister_after_seconds: Annotated[float, Field(ge=60)] = 1800.0
    drain_seconds: Annotated[float, Field(ge=0)] = 5.0
    max_stale_seconds: Annotated[float, Field(gt=0)] = 10.0
    check_timeout_seconds: Annotated[float, Field(gt=0)] = 1.0
    check_ttl_seconds: Annotated[float, Field(gt=0)] = 5.0
    allowed_cidrs: tuple[str, ...] = ()
    rate_limit_per_second: Annotated[float, Field(gt=0)] = 50.0
    max_body_bytes: Annotated[int, Field(gt=0)] = 64 * 1024
    health_details: Literal["never", "authorized", "always"] | None = None
    snapshot_file: Path | None = None
    secrets_dir: Path | None = None
    max_registrations: Annotated[int, Field(ge=1)] = 200  # instances of one service; 200 of the largest are 12 MiB in the registry
    max_streams: Annotated[int, Field(ge=1)] = 500  # event streams and long polls of one replica
    max_streams_per_caller: Annotated[int, Field(ge=1)] = 100
    max_connections: Annotated[int, Field(ge=1)] = 1000  # to the service's port; idle ones make room
    header_seconds: Annotated[float, Field(gt=0)] = 10.0  # until the head of a request is here
    stall_seconds: Annotated[float, Field(gt=0)] = 10.0  # without a reader taking anything of a full buffer

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backend == "consul" and self.consul is None:
            raise ValueError("backend is `consul` but `consul.address` is not set: set it, or backend to `memory`")
        if self.profile == "prod" and self.backend == "memory":
            raise ValueError("backend is `memory` in profile `prod`, where it would lose every registration: configure `consul`")
        return self

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        from groundwork.config.layers import prefixes  # noqa: PLC0415 - the rules stand there, in one place, and use this module
        from groundwork.registry.own import own_registration  # noqa: PLC0415 - likewise

        own_registration(self)
        try:
            prefixes(self.config_prefix, self.service, self.profile)
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
        if self.metrics_port == self.http_port:
            raise ValueError(f"metrics_port: {self.metrics_port} is http_port as well: give it another one")
        return self

    @property
    def effective_backend(self) -> Literal["memory", "consul"]:
        """The back end in use: Consul where one is configured, else the embedded one."""
        return self.backend or ("consul" if self.consul else "memory")

    @property
    def effective_fail_fast(self) -> bool:
        """Whether a service without its configuration stays unready."""
        return self.profile == "prod" if self.fail_fast is None else self.fail_fast

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, which wins over the file."""
        del dotenv_settings, file_secret_settings  # secrets are files that are read at the time of use
        file = Path(os.environ.get(SETTINGS_FILE_VARIABLE, str(MOUNT / "settings.json")))
        consul = _ConsulVariables(settings_cls)
        return init_settings, env_settings, JsonConfigSettingsSource(settings_cls, json_file=file if file.is_file() else None), consul


class _ConsulVariables(PydanticBaseSettingsSource):
    """Consul's own variables, as its command line reads them, where nothing else says where Consul is."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[object, str, bool]:
        """The section `consul`, whole."""
        del field
        address = os.environ.get("CONSUL_HTTP_ADDR")
        if field_name != "consul" or not address or self.current_state.get("consul"):
            return None, field_name, False
        if "://" not in address:
            tls = os.environ.get("CONSUL_HTTP_SSL", "").lower() in {"1", "true"}
            address = f"{'https' if tls else 'http'}://{address}"
        files = {
            "ca": "CONSUL_CACERT",
            "token_file": "CONSUL_HTTP_TOKEN_FILE",
            "client_cert": "CONSUL_CLIENT_CERT",
            "client_key": "CONSUL_CLIENT_KEY",
        }
        return {"address": address} | {key: os.environ[variable] for key, variable in files.items() if os.environ.get(variable)}, field_name, False

    def __call__(self) -> dict[str, object]:
        value, _, _ = self.get_field_value(self.settings_cls.model_fields["consul"], "consul")
        return {} if value is None else {"consul": value}


def load(**overrides: object) -> Settings:
    """The settings of this process: `overrides`, then environment, then the mounted file.

    Raises InvalidSettings that names each bad key and what is wrong with it, never a value.
    """
    try:
        return Settings(**overrides)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(part) for part in e['loc']) or 'settings'}: {e['msg']}" for e in error.errors(include_input=False))
        raise InvalidSettings(f"{problems}. Set it in {SETTINGS_FILE_VARIABLE} or by an environment variable PLATFORM_<KEY>") from None


def read_secret(path: Path) -> SecretStr:
    """A mounted secret, without the newline at its end.

    Raises InvalidSettings where it cannot be read.
    """
    try:
        return SecretStr(path.read_text().removesuffix("\n"))
    except OSError as error:
        raise InvalidSettings(f"secret file {path} cannot be read ({error.strerror}): is the Secret mounted?") from None
