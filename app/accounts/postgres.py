"""Roles and databases of PostgreSQL: each client owns its own database, and nobody else may connect to it."""

from __future__ import annotations

import logging
import ssl

import asyncpg
from asyncpg import Connection, Record

from app.accounts import scram, waiting
from app.accounts.desired import PostgresAccount, PostgresState
from app.accounts.errors import AccountsError, NotYet

MARK = "managed by groundwork"  # the comment on our roles: others are left alone
LOCK = 0x67726F756E64  # of pg_advisory_lock: a Job and a CronJob may run at the same time
CONNECT_SECONDS = 10.0
SYSTEM_DATABASES = ("postgres", "template1")

log = logging.getLogger(__name__)


def quoted(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


async def connect(state: PostgresState, user: str, password: str, database: str, trust: ssl.SSLContext) -> Connection[Record]:
    """A connection with verified TLS. Raises NotYet while the server starts."""
    try:
        return await asyncpg.connect(
            host=state.host,
            port=state.port,
            user=user,
            password=password,
            database=database,
            ssl=trust,
            timeout=CONNECT_SECONDS,
            command_timeout=waiting.STEP_SECONDS,
        )
    except (asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError, asyncpg.TooManyConnectionsError) as error:
        raise NotYet(str(error)) from None


async def connect_admin(state: PostgresState, password: str, trust: ssl.SSLContext) -> Connection[Record]:
    """The administrator's connection. Raises AccountsError where the server refuses it."""
    try:
        return await connect(state, state.admin, password, "postgres", trust)
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise AccountsError(
            f"PostgreSQL refuses {state.admin} with the password of the Secret: its volume was created with another one. "
            "Bring back the password that the volume knows, or delete the volume's claim to begin anew"
        ) from None


async def ensure_role(admin: Connection[Record], client: PostgresAccount) -> bool:
    """Makes the role able to log in with its password and to do nothing beyond its database. True where something changed."""
    query = """
        SELECT rolcanlogin, rolpassword, coalesce(shobj_description(oid, 'pg_authid'), '') AS mark,
               rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS mighty
        FROM pg_authid WHERE rolname = $1
    """
    name, password = quoted(client.name), client.password.get_secret_value()
    found = await admin.fetchrow(query, client.name)
    if found is None:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{scram.verifier(password)}'")
        await admin.execute(f"COMMENT ON ROLE {name} IS '{MARK}'")
        log.info("role %s: created", client.name)
        return True
    changed = False
    if found["mighty"]:
        await admin.execute(f"ALTER ROLE {name} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")
        log.warning("role %s: had rights beyond its database, which were taken away", client.name)
        changed = True
    if not found["rolcanlogin"] or not scram.matches(password, found["rolpassword"]):
        await admin.execute(f"ALTER ROLE {name} LOGIN PASSWORD '{scram.verifier(password)}'")
        log.info("role %s: new password", client.name)
        changed = True
    if found["mark"] != MARK:
        await admin.execute(f"COMMENT ON ROLE {name} IS '{MARK}'")
        changed = True
    return changed


async def ensure_database(admin: Connection[Record], client: PostgresAccount) -> bool:
    """Makes the client's database exist and belong to it. True where something changed."""
    name, owner = quoted(client.database), quoted(client.name)
    found = await admin.fetchval("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1", client.database)
    if found is None:
        await admin.execute(f"CREATE DATABASE {name} OWNER {owner}")
        log.info("database %s: created for %s", client.database, client.name)
    elif found != client.name:
        await admin.execute(f"ALTER DATABASE {name} OWNER TO {owner}")
        log.warning("database %s: belonged to %s, now to %s; what is in it keeps its owners", client.database, found, client.name)
    return found != client.name


async def close_to_public(admin: Connection[Record], database: str) -> None:
    """Takes from all roles what PostgreSQL gives them in a new database: the right to connect, and to make temporary tables."""
    await admin.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")


async def remove_strangers(admin: Connection[Record], state: PostgresState) -> list[str]:
    """Takes the login of our roles that are no longer declared and ends their sessions. Their databases stay."""
    query = """
        SELECT r.rolname, coalesce(string_agg(d.datname, ', '), 'none') AS databases
        FROM pg_roles r LEFT JOIN pg_database d ON d.datdba = r.oid
        WHERE shobj_description(r.oid, 'pg_authid') = $1 AND r.rolcanlogin AND r.rolname <> ALL($2::text[])
        GROUP BY r.rolname ORDER BY r.rolname
    """
    removed: list[str] = []
    for row in await admin.fetch(query, MARK, [client.name for client in state.clients]):
        await admin.execute(f"ALTER ROLE {quoted(row['rolname'])} NOLOGIN PASSWORD NULL")
        await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", row["rolname"])
        log.warning("role %s: no longer declared, may not log in any more; kept with all data: %s", row["rolname"], row["databases"])
        removed.append(row["rolname"])
    return removed


async def verify(state: PostgresState, client: PostgresAccount, trust: ssl.SSLContext) -> None:
    """Logs in as the client. Raises AccountsError where that fails."""
    try:
        connection = await connect(state, client.name, client.password.get_secret_value(), client.database, trust)
    except asyncpg.PostgresError as error:
        raise AccountsError(f"{client.name} cannot log in to its database {client.database} after all was applied: {error}") from None
    try:
        await connection.fetchval("SELECT 1")
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def apply(state: PostgresState, password: str, trust: ssl.SSLContext, *, wait_seconds: float) -> str:
    """Applies `state` and returns a line about what was done. Raises AccountsError."""
    admin = await waiting.until(f"PostgreSQL at {state.host}:{state.port}", lambda: connect_admin(state, password, trust), seconds=wait_seconds)
    changed = 0
    try:
        await admin.execute("SELECT pg_advisory_lock($1)", LOCK)  # let go with the connection
        for database in SYSTEM_DATABASES:
            await close_to_public(admin, database)
        for client in state.clients:
            role = await ensure_role(admin, client)
            database = await ensure_database(admin, client)
            await close_to_public(admin, client.database)
            changed += role or database
        removed = await remove_strangers(admin, state)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise AccountsError(f"PostgreSQL refused a step: {error}. The steps before it stand; run the Job again when that is mended") from None
    finally:
        await admin.close(timeout=CONNECT_SECONDS)
    for client in state.clients:
        await verify(state, client, trust)
    return f"{len(state.clients)} clients can log in, {changed} of them changed, {len(removed)} removed"
