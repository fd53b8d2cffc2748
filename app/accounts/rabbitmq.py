"""Virtual hosts, users and permissions of RabbitMQ: each client may do everything in its own virtual host and nothing elsewhere.

A certificate that changes is read by itself, within two minutes, or at once where Erlang keeps none in memory (`-ssl bypass_pem_cache true`).
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

from app.accounts import certificates, https, waiting
from app.accounts.certificates import Listener
from app.accounts.desired import RabbitmqAccount, RabbitmqState
from app.accounts.errors import AccountsError, NotYet
from app.accounts.generations import obsolete, refuse_late
from app.accounts.https import Api

TAG = "groundwork"  # on our users: others are left alone. It grants nothing.
SEEN = "/api/global-parameters/groundwork"  # the newest generation that was applied here
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


class Seen(_Answer):
    """What generation was applied last."""

    generation: int


class Parameter(_Answer):
    """Our global parameter as the management API shows it."""

    value: Seen


PARAMETER = TypeAdapter(Parameter)
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


async def keep_up(api: Api, generation: int) -> None:
    """Remembers `generation` in a global parameter. Raises Late where RabbitMQ has seen a newer one."""
    answer = await api.call("GET", SEEN)
    seen = PARAMETER.validate_python(answer.body).value.generation if answer.status == 200 else 0
    refuse_late("RabbitMQ", generation, seen)
    if generation > seen:
        await api.must("PUT", SEEN, {"value": {"generation": generation}})


async def ensure_vhost(api: Api, client: RabbitmqAccount, existing: set[str]) -> bool:
    """Makes the client's virtual host exist. True where something changed."""
    if client.vhost in existing:
        return False
    await api.must("PUT", f"/api/vhosts/{segment(client.vhost)}", {})
    log.info("virtual host %s: created for %s", client.vhost, client.name)
    return True


async def ensure_user(api: Api, client: RabbitmqAccount) -> bool:
    """Makes the user exist with its password and without rights in the management. True where something changed."""
    path = f"/api/users/{segment(client.login)}"
    answer = await api.call("GET", path)
    password = client.password.get_secret_value()
    if answer.status == 200:
        user = USER.validate_python(answer.body)
        if user.tag_names == {TAG} and hash_matches(password, user.password_hash):
            return False
    await api.must("PUT", path, {"password_hash": password_hash(password), "hashing_algorithm": HASHING, "tags": TAG})
    log.info("user %s: %s", client.login, "new password" if answer.status == 200 else "created")
    return True


async def ensure_permissions(api: Api, client: RabbitmqAccount) -> bool:
    """Gives the user everything in its own virtual host, and nothing in any other. True where something changed."""
    wanted = Permission(vhost=client.vhost, **EVERYTHING)
    found = PERMISSIONS.validate_python(await api.must("GET", f"/api/users/{segment(client.login)}/permissions"))
    for permission in found:
        if permission.vhost != client.vhost:
            await api.must("DELETE", f"/api/permissions/{segment(permission.vhost)}/{segment(client.login)}")
            log.warning("user %s: lost its permissions in virtual host %s, which is not its own", client.login, permission.vhost)
    if wanted not in found:
        await api.must("PUT", f"/api/permissions/{segment(client.vhost)}/{segment(client.login)}", EVERYTHING)
        log.info("user %s: permissions in virtual host %s", client.login, client.vhost)
    return found != [wanted]


async def remove_guest(api: Api) -> None:
    """Removes the user whose password everybody knows."""
    if (await api.call("GET", "/api/users/guest")).status == 200:
        await api.must("DELETE", "/api/users/guest")
        log.warning("user guest: removed")


async def retire(api: Api, declared: set[str], generation: int) -> int:
    """Removes our obsolete users; their connections end. Virtual hosts and queues stay. How many went."""
    users = USERS.validate_python(await api.must("GET", "/api/users"))
    retired = [user.name for user in users if TAG in user.tag_names and obsolete(user.name, declared, generation)]
    for name in retired:
        await api.must("DELETE", f"/api/users/{segment(name)}")
        log.warning("user %s: removed; virtual hosts and their queues are kept", name)
    return len(retired)


async def verify(state: RabbitmqState, client: RabbitmqAccount, trust: ssl.SSLContext) -> None:
    """Logs in by AMQP as the client. Raises AccountsError where it is refused, OSError where nobody answers."""
    try:
        connection = await aio_pika.connect(
            host=state.host,
            port=state.amqp_port,
            login=client.login,
            password=client.password.get_secret_value(),
            virtualhost=client.vhost,
            ssl=True,
            ssl_context=trust,
            timeout=CONNECT_SECONDS,
        )
    except (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed) as error:
        raise AccountsError(f"{client.login} cannot log in to its virtual host {client.vhost} after all was applied: {error}") from None
    await connection.close()


async def apply(state: RabbitmqState, password: str, trust: ssl.SSLContext, *, wait_seconds: float) -> str:
    """Applies `state` and returns a line about what was done. Raises AccountsError, and Late where nothing was."""
    what = f"RabbitMQ at {state.host}"
    headers = {"Authorization": aiohttp.encode_basic_auth(state.admin, password, "utf-8")}
    async with https.api(what, state.host, state.port, trust, headers=headers) as api:
        await waiting.until(f"{what}:{state.port}", lambda: log_in(api), seconds=wait_seconds)

        async def agree() -> tuple[int, int]:
            await keep_up(api, state.generation)
            await remove_guest(api)
            existing = {vhost.name for vhost in VHOSTS.validate_python(await api.must("GET", "/api/vhosts"))}
            changed = 0
            for client in state.clients:
                vhost = await ensure_vhost(api, client, existing)
                user = await ensure_user(api, client)
                permissions = await ensure_permissions(api, client)
                changed += vhost or user or permissions
            logins = {client.login for client in state.clients}
            return changed, await retire(api, logins, state.generation) if state.retire else 0

        changed, retired = await waiting.until(what, agree, seconds=wait_seconds)
    listeners = [Listener(state.host, port) for port in (state.port, state.amqp_port)]
    await certificates.wait_for(what, state.certificate, listeners, trust, seconds=wait_seconds)
    for client in state.clients:
        # The listener for clients opens after the management's.
        await waiting.until(f"{what}:{state.amqp_port}", lambda client=client: verify(state, client, trust), seconds=wait_seconds)
    return f"{len(state.clients)} clients can log in, {changed} of them changed, {retired} accounts retired"
