"""Virtual hosts, users and permissions of RabbitMQ: each client may do everything in its own virtual host and nothing elsewhere.

https://www.rabbitmq.com/docs/http-api-reference, https://www.rabbitmq.com/docs/passwords
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import ssl
from base64 import b64decode, b64encode
from urllib.parse import quote

import aio_pika
import aiohttp
from aiormq.exceptions import AuthenticationError, ConnectionNotAllowed, ProbableAuthenticationError
from pydantic import BaseModel, ConfigDict, TypeAdapter

from app.accounts import https, waiting
from app.accounts.desired import RabbitmqAccount, RabbitmqState
from app.accounts.errors import AccountsError, NotYet
from app.accounts.https import Api

TAG = "groundwork"  # on our users: others are left alone. It grants nothing.
HASHING = "rabbit_password_hashing_sha256"
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
CONNECT_SECONDS = 10.0

log = logging.getLogger(__name__)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")


class User(_Answer):
    """A user as the management API shows it."""

    name: str
    password_hash: str = ""
    tags: list[str] | str = ""  # a list from 3.9 on

    @property
    def tag_names(self) -> set[str]:
        """The tags, in either form."""
        return set(self.tags.split(",") if isinstance(self.tags, str) else self.tags)


class Vhost(_Answer):
    """A virtual host as the management API shows it."""

    name: str


class Permission(_Answer):
    """What a user may do in a virtual host."""

    vhost: str
    configure: str
    write: str
    read: str


USER = TypeAdapter(User)
USERS = TypeAdapter(list[User])
VHOSTS = TypeAdapter(list[Vhost])
PERMISSIONS = TypeAdapter(list[Permission])


def password_hash(password: str, salt: bytes | None = None) -> str:
    """What RabbitMQ keeps instead of a password: four bytes of salt and the SHA-256 over both."""
    salt = os.urandom(4) if salt is None else salt
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def hash_matches(password: str, kept: str) -> bool:
    """Whether `kept` is a hash of `password`."""
    return hmac.compare_digest(password_hash(password, b64decode(kept)[:4]), kept)


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


async def log_in(api: Api) -> None:
    """Raises NotYet until the management API knows its users, and AccountsError where it refuses the administrator."""
    answer = await api.call("GET", "/api/whoami")
    if answer.status == 401:
        raise AccountsError(
            "RabbitMQ refuses the administrator with the password of the Secret: its volume was created with another one. "
            "Bring back the password that the volume knows, or delete the volume's claim to begin anew"
        )
    if answer.status != 200:
        raise NotYet(f"RabbitMQ answers {answer.status} to /api/whoami")


async def ensure_vhost(api: Api, client: RabbitmqAccount, existing: set[str]) -> bool:
    """Makes the client's virtual host exist. True where something changed."""
    if client.vhost in existing:
        return False
    await api.must("PUT", f"/api/vhosts/{segment(client.vhost)}", {})
    log.info("virtual host %s: created for %s", client.vhost, client.name)
    return True


async def ensure_user(api: Api, client: RabbitmqAccount) -> bool:
    """Makes the user exist with its password and without rights in the management. True where something changed."""
    path = f"/api/users/{segment(client.name)}"
    answer = await api.call("GET", path)
    password = client.password.get_secret_value()
    if answer.status == 200:
        user = USER.validate_python(answer.body)
        if user.tag_names == {TAG} and hash_matches(password, user.password_hash):
            return False
    await api.must("PUT", path, {"password_hash": password_hash(password), "hashing_algorithm": HASHING, "tags": TAG})
    log.info("user %s: %s", client.name, "new password" if answer.status == 200 else "created")
    return True


async def ensure_permissions(api: Api, client: RabbitmqAccount) -> bool:
    """Gives the user everything in its own virtual host, and nothing in any other. True where something changed."""
    wanted = Permission(vhost=client.vhost, **EVERYTHING)
    found = PERMISSIONS.validate_python(await api.must("GET", f"/api/users/{segment(client.name)}/permissions"))
    for permission in found:
        if permission.vhost != client.vhost:
            await api.must("DELETE", f"/api/permissions/{segment(permission.vhost)}/{segment(client.name)}")
            log.warning("user %s: lost its permissions in virtual host %s, which is not its own", client.name, permission.vhost)
    if wanted not in found:
        await api.must("PUT", f"/api/permissions/{segment(client.vhost)}/{segment(client.name)}", EVERYTHING)
        log.info("user %s: permissions in virtual host %s", client.name, client.vhost)
    return found != [wanted]


async def remove_strangers(api: Api, state: RabbitmqState) -> list[str]:
    """Removes our users that are no longer declared, and `guest`, whose password everybody knows. Virtual hosts and queues stay."""
    declared = {client.name for client in state.clients}
    users = USERS.validate_python(await api.must("GET", "/api/users"))
    strangers = [user.name for user in users if user.name == "guest" or (TAG in user.tag_names and user.name not in declared)]
    for name in strangers:
        await api.must("DELETE", f"/api/users/{segment(name)}")
        log.warning("user %s: not declared, removed; virtual hosts and their queues are kept", name)
    return strangers


async def verify(state: RabbitmqState, client: RabbitmqAccount, trust: ssl.SSLContext) -> None:
    """Logs in by AMQP as the client. Raises AccountsError where it is refused, OSError where nobody answers."""
    try:
        connection = await aio_pika.connect(
            host=state.host,
            port=state.amqp_port,
            login=client.name,
            password=client.password.get_secret_value(),
            virtualhost=client.vhost,
            ssl=True,
            ssl_context=trust,
            timeout=CONNECT_SECONDS,
        )
    except (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed) as error:
        raise AccountsError(f"{client.name} cannot log in to its virtual host {client.vhost} after all was applied: {error}") from None
    await connection.close()


async def apply(state: RabbitmqState, password: str, trust: ssl.SSLContext, *, wait_seconds: float) -> str:
    """Applies `state` and returns a line about what was done. Raises AccountsError."""
    what = f"RabbitMQ at {state.host}"
    headers = {"Authorization": aiohttp.encode_basic_auth(state.admin, password, "utf-8")}
    async with https.api(what, state.host, state.port, trust, headers=headers) as api:
        await waiting.until(f"{what}:{state.port}", lambda: log_in(api), seconds=wait_seconds)

        async def agree() -> tuple[int, int]:
            existing = {vhost.name for vhost in VHOSTS.validate_python(await api.must("GET", "/api/vhosts"))}
            changed = 0
            for client in state.clients:
                vhost = await ensure_vhost(api, client, existing)
                user = await ensure_user(api, client)
                permissions = await ensure_permissions(api, client)
                changed += vhost or user or permissions
            return changed, len(await remove_strangers(api, state))

        changed, removed = await waiting.until(what, agree, seconds=wait_seconds)
    for client in state.clients:
        # The listener for clients opens after the management's.
        await waiting.until(f"{what}:{state.amqp_port}", lambda client=client: verify(state, client, trust), seconds=wait_seconds)
    return f"{len(state.clients)} clients can log in, {changed} of them changed, {removed} removed"
