"""Users of Redis: each client reaches its own keys and channels and may not administer the server.

The access list is changed in the running server and then saved to its file, so that it survives a restart. This program's users are named
`<client>.<generation>`, or like a declared client where they are from before there were generations: others are left alone.
https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from pydantic import TypeAdapter
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.accounts import certificates, waiting
from app.accounts.certificates import Listener
from app.accounts.desired import RedisAccount, RedisState
from app.accounts.errors import AccountsError, NotYet
from app.accounts.generations import Login, obsolete, refuse_late

# Begins the name of a user without any right, which says what generation was applied here last. No client's name has a colon.
SEEN = "generation:"
TLS_FILES = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
CALL_SECONDS = 10.0

LINES = TypeAdapter(list[str])
SETTINGS = TypeAdapter(dict[str, str])

log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(state: RedisState, user: str, password: str, ca: Path) -> AsyncGenerator[Redis]:
    """A client with verified TLS whose every call ends. Raises NotYet where Redis is away, SSLCertVerificationError and AuthenticationError."""
    client = Redis(
        host=state.host,
        port=state.port,
        username=user,
        password=password,
        ssl=True,
        ssl_ca_certs=str(ca),
        socket_timeout=CALL_SECONDS,
        socket_connect_timeout=CALL_SECONDS,
        retry=Retry(NoBackoff(), 0),  # `waiting` tries again, and says so
        decode_responses=True,
    )
    try:
        async with client:
            yield client
    except exceptions.AuthenticationError:
        raise
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        if isinstance(error.__context__, ssl.SSLCertVerificationError):
            raise error.__context__ from None
        raise NotYet(str(error)) from None


async def ask(client: Redis, command: str, *words: str) -> object:
    """The answer to one command."""
    return await client.execute_command(command, *words)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] untyped there


async def log_in(state: RedisState, password: str, ca: Path) -> None:
    """Raises NotYet while Redis is away or loads its data, and AccountsError where it refuses the administrator."""
    try:
        async with connect(state, state.admin, password, ca) as admin:
            await ask(admin, "PING")
    except exceptions.AuthenticationError:
        raise AccountsError(
            f"Redis refuses {state.admin} with the password of the Secret: its access list was made with another one. "
            "Restart its pod, which writes the administrator's line of the access list when it starts"
        ) from None


async def names(admin: Redis) -> list[str]:
    """The names of all users."""
    return LINES.validate_python(await ask(admin, "ACL USERS"))


async def keep_up(admin: Redis, generation: int) -> None:
    """Remembers `generation` in the access list. Raises Late where Redis has seen a newer one."""
    marks = {int(name.removeprefix(SEEN)): name for name in await names(admin) if name.startswith(SEEN)}
    refuse_late("Redis", generation, max(marks, default=0))
    if generation not in marks:
        await ask(admin, "ACL SETUSER", f"{SEEN}{generation}", "reset")
    for older in marks.keys() - {generation}:
        await ask(admin, "ACL DELUSER", marks[older])


async def ensure_user(admin: Redis, client: RedisAccount) -> bool:
    """Makes the user exist with its password and its rules alone. True where something changed."""

    async def line() -> str | None:
        lines = LINES.validate_python(await ask(admin, "ACL LIST"))
        return next((line for line in lines if line.startswith(f"user {client.login} ")), None)

    before = await line()
    password = sha256(client.password.get_secret_value().encode()).hexdigest()
    await ask(admin, "ACL SETUSER", client.login, "reset", "on", f"#{password}", "resetkeys", "resetchannels", *client.rules)
    changed = await line() != before
    if changed:
        log.info("user %s: %s", client.login, "created" if before is None else "changed")
    return changed


async def retire(admin: Redis, state: RedisState) -> int:
    """Removes our obsolete users; their connections end. Keys stay. How many went."""
    logins, clients = {client.login for client in state.clients}, {client.name for client in state.clients}
    retired = 0
    for name in await names(admin):
        ours = Login.parse(name).generation > 0 or name in clients - {state.admin, "default"}
        if ours and obsolete(name, logins, state.generation):
            await ask(admin, "ACL DELUSER", name)
            log.warning("user %s: removed; its keys are kept", name)
            retired += 1
    return retired


async def agree(state: RedisState, password: str, ca: Path) -> tuple[int, int]:
    """Makes the users agree with `state`: how many changed, and how many were retired. Raises Late."""
    async with connect(state, state.admin, password, ca) as admin:
        try:
            await keep_up(admin, state.generation)
            changed = sum([await ensure_user(admin, client) for client in state.clients])
            retired = await retire(admin, state) if state.retire else 0
            await ask(admin, "ACL SAVE")  # even without a change: a run before this one may have ended before it got here
        except exceptions.ResponseError as error:
            raise AccountsError(f"Redis refused a step: {error}. The steps before it stand; run the Job again when that is mended") from None
    return changed, retired


async def reload(state: RedisState, password: str, ca: Path) -> None:
    """Makes Redis read its certificate files again. Connections that are open go on. Raises NotYet where it refuses the files."""
    async with connect(state, state.admin, password, ca) as admin:
        files = SETTINGS.validate_python(await ask(admin, "CONFIG GET", *TLS_FILES))
        try:
            # In one command: a key must never be tried with the certificate before it.
            await ask(admin, "CONFIG SET", *(part for name in TLS_FILES for part in (name, files[name])))
        except exceptions.ResponseError as error:
            raise NotYet(f"Redis does not take the files of its certificate ({error})") from None


async def verify(state: RedisState, client: RedisAccount, ca: Path) -> None:
    """Logs in as the client. Raises AccountsError where it is refused."""
    try:
        async with connect(state, client.login, client.password.get_secret_value(), ca) as connection:
            await ask(connection, "PING")
    except (exceptions.AuthenticationError, exceptions.ResponseError) as error:
        raise AccountsError(f"{client.login} cannot log in after all was applied: {error}") from None


async def apply(state: RedisState, password: str, ca: Path, trust: ssl.SSLContext, *, wait_seconds: float) -> str:
    """Applies `state` and returns a line about what was done. Raises AccountsError, and Late where nothing was."""
    what = f"Redis at {state.host}:{state.port}"
    await waiting.until(what, lambda: log_in(state, password, ca), seconds=wait_seconds)
    changed, retired = await waiting.until(what, lambda: agree(state, password, ca), seconds=wait_seconds)
    await certificates.wait_for(
        what,
        state.certificate,
        [Listener(state.host, state.port)],
        trust,
        reload=lambda: reload(state, password, ca),
        seconds=wait_seconds,
    )
    for client in state.clients:
        await waiting.until(what, lambda client=client: verify(state, client, ca), seconds=wait_seconds)
    return f"{len(state.clients)} clients can log in, {changed} of them changed, {retired} accounts retired"
