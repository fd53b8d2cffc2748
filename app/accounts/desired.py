"""The schema of accounts.json: what the platform's components render (components/postgres.py and its like) and this program applies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from app.accounts.errors import AccountsError

STATE_FILE = "accounts.json"
ADMIN_FILE = "admin"

Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(min_length=1, max_length=63)]
Secret = Annotated[SecretStr, Field(min_length=16)]  # a shorter one was not made by the platform
Rules = dict[str, dict[str, dict[str, str]]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PostgresAccount(_Section):
    """A role that may log in, and the database that it owns."""

    name: Name
    password: Secret
    database: Name


class PostgresState(_Section):
    """All roles and databases of a PostgreSQL server."""

    host: str
    port: Port
    admin: str
    clients: tuple[PostgresAccount, ...]


class RabbitmqAccount(_Section):
    """A user, and the virtual host in which it may do everything."""

    name: Name
    password: Secret
    vhost: str


class RabbitmqState(_Section):
    """All users of a RabbitMQ. `port` is the management API's, `amqp_port` the one where clients log in."""

    host: str
    port: Port
    amqp_port: Port
    admin: str
    clients: tuple[RabbitmqAccount, ...]


class ConsulAccount(_Section):
    """A token, and the rules of its policy in Consul's JSON form."""

    name: Name
    token: Secret
    rules: Rules


class ConsulState(_Section):
    """All tokens of a Consul datacenter."""

    host: str
    port: Port
    tokens: tuple[ConsulAccount, ...]


State = TypeVar("State", PostgresState, RabbitmqState, ConsulState)


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
