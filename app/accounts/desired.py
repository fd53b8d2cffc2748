"""The schema of accounts.json: what the platform's components render (components/postgres.py and its like) and this program applies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from app.accounts.errors import AccountsError

STATE_FILE = "accounts.json"
ADMIN_FILE = "admin"

Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(min_length=1, max_length=63)]
ClientName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^.]+$")]  # a dot begins the generation
Generation = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Secret = Annotated[SecretStr, Field(min_length=16)]  # a shorter one was not made by the platform
Rules = dict[str, dict[str, dict[str, str]]]
# Keys, channels and commands: neither a password nor a state, which are this program's.
RedisRule = Annotated[str, Field(pattern=r"^([~&]|%(R|W|RW)~|[+-]@?[a-z])\S*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Login(_Section):
    """A client and its account of this generation."""

    name: ClientName
    login: Name
    password: Secret


class _State(_Section):
    """What every engine's file says.

    `generation` grows with every rotation. With `retire`, accounts of earlier generations and of clients that are no longer declared lose
    their login; without, they are left alone. `certificate` is the SHA-256 of the server certificate that is to be shown; null: any.
    """

    host: str
    port: Port
    generation: Generation
    retire: bool
    certificate: Sha256 | None


class PostgresAccount(_Login):
    """A role `login` that may log in as a member of the role `name`, and the database that the latter owns."""

    database: Name


class PostgresState(_State):
    """All roles and databases of a PostgreSQL server."""

    admin: str
    clients: tuple[PostgresAccount, ...]

    @model_validator(mode="after")
    def _logins(self) -> Self:
        check_logins(self.generation, self.clients)
        return self


class RedisAccount(_Login):
    """A user, and what it may touch: keys (`~`), channels (`&`) and commands (`+`, `-`) as in Redis' access list."""

    rules: Annotated[tuple[RedisRule, ...], Field(min_length=1)]


class RedisState(_State):
    """All users of a Redis."""

    admin: str
    clients: tuple[RedisAccount, ...]

    @model_validator(mode="after")
    def _logins(self) -> Self:
        check_logins(self.generation, self.clients)
        return self


class RabbitmqAccount(_Login):
    """A user, and the virtual host in which it may do everything."""

    vhost: str


class RabbitmqState(_State):
    """All users of a RabbitMQ. `port` is the management API's, `amqp_port` the one where clients log in."""

    amqp_port: Port
    admin: str
    clients: tuple[RabbitmqAccount, ...]

    @model_validator(mode="after")
    def _logins(self) -> Self:
        check_logins(self.generation, self.clients)
        return self


class ConsulAccount(_Section):
    """A token, and the rules of its policy in Consul's JSON form."""

    name: ClientName
    token: Secret
    rules: Rules


class ConsulState(_State):
    """All tokens of a Consul datacenter. `host` answers for any of the `servers`, each of which is asked to show the certificate."""

    servers: Annotated[tuple[str, ...], Field(min_length=1)]
    tokens: tuple[ConsulAccount, ...]


State = TypeVar("State", bound=_State)


def check_logins(generation: int, clients: Sequence[_Login]) -> None:
    """Raises ValueError for a login by which nobody could tell whose it is and of which generation."""
    for client in clients:
        if client.login != f"{client.name}.{generation}":
            raise ValueError(f"the login {client.login} is not {client.name}.{generation}, the client's name and the generation")


def read_state(folder: Path, schema: type[State]) -> State:
    """The mounted accounts.json. Raises AccountsError that says what is wrong with it, never a value of it."""
    file = folder / STATE_FILE
    try:
        return schema.model_validate_json(file.read_bytes())
    except OSError as error:
        raise AccountsError(f"{file} cannot be read ({error.strerror}): is the Secret mounted?") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg']}" for e in error.errors(include_input=False))
        raise AccountsError(f"{file} is not what this image expects ({problems}): deploy the image and the program of one version") from None
