"""Roles and databases of PostgreSQL: each client owns its own database, and nobody else may connect to it.

The role `<client>` owns the database and everything in it, and cannot log in. The logins `<client>.<generation>` are members of it and act as
it from the first statement on, so that what one generation makes belongs to the next one too.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Collection

import asyncpg
from asyncpg import Connection, Record

from app.accounts import certificates, scram, waiting
from app.accounts.certificates import Listener
from app.accounts.desired import PostgresAccount, PostgresState
from app.accounts.errors import AccountsError, NotYet
from app.accounts.generations import Login, obsolete, refuse_late

MARK = "managed by groundwork"  # the comment on our roles: others are left alone
SEEN = "groundwork.generation"  # a setting of the administrator's database: the newest generation that was applied here
LOCK = 0x67726F756E64  # of pg_advisory_lock: a Job and a CronJob may run at the same time
CONNECT_SECONDS = 10.0
SESSION_END_MS = 5000
ADMIN_DATABASE = "postgres"
SYSTEM_DATABASES = (ADMIN_DATABASE, "template1")

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
        return await connect(state, state.admin, password, ADMIN_DATABASE, trust)
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise AccountsError(
            f"PostgreSQL refuses {state.admin} with the password of the Secret: its volume was created with another one. "
            "Bring back the password that the volume knows, or delete the volume's claim to begin anew"
        ) from None


async def lock(admin: Connection[Record], seconds: float) -> None:
    """Waits until no other run of this program is at work. Let go with `unlock`, or with the connection."""
    try:
        await admin.execute("SELECT pg_advisory_lock($1::bigint)", LOCK, timeout=seconds)
    except TimeoutError:
        raise AccountsError(f"another run of the accounts Job or CronJob was at work for {seconds:.0f} s: look at its log") from None


async def unlock(admin: Connection[Record]) -> None:
    """Lets the next run work."""
    await admin.execute("SELECT pg_advisory_unlock($1::bigint)", LOCK)


async def keep_up(admin: Connection[Record], generation: int) -> None:
    """Remembers `generation` in the server. Raises Late where the server has seen a newer one."""
    query = """
        SELECT split_part(setting, '=', 2)::int
        FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase, unnest(setconfig) AS setting
        WHERE setrole = 0 AND d.datname = $1 AND split_part(setting, '=', 1) = $2
    """
    seen: int = await admin.fetchval(query, ADMIN_DATABASE, SEEN) or 0
    refuse_late("PostgreSQL", generation, seen)
    if generation > seen:
        await admin.execute(f"ALTER DATABASE {quoted(ADMIN_DATABASE)} SET {SEEN} = {generation}")


async def ensure_role(admin: Connection[Record], role: str, *, belongs_to: str | None, inherit: bool) -> bool:
    """Makes the role exist as one of ours, a member of `belongs_to` alone, without rights beyond that. True where something changed."""
    query = """
        SELECT coalesce(shobj_description(oid, 'pg_authid'), '') = $2 AS marked, rolinherit,
               rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS mighty,
               ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid) AS groups
        FROM pg_roles r WHERE rolname = $1
    """
    name = quoted(role)
    found = await admin.fetchrow(query, role, MARK)
    if found is None:
        await admin.execute(f"CREATE ROLE {name} NOLOGIN")
    if found is None or not found["marked"]:
        await admin.execute(f"COMMENT ON ROLE {name} IS '{MARK}'")
    changed = found is None or not found["marked"]
    if found is not None and found["mighty"]:
        await admin.execute(f"ALTER ROLE {name} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")
        log.warning("role %s: had rights beyond its database, which were taken away", role)
        changed = True
    if found is not None and inherit and not found["rolinherit"]:
        await admin.execute(f"ALTER ROLE {name} INHERIT")
        changed = True
    groups: set[str] = set() if found is None else set(found["groups"])
    wanted = set[str]() if belongs_to is None else {belongs_to}
    for group in groups - wanted:
        await admin.execute(f"REVOKE {quoted(group)} FROM {name}")
        log.warning("role %s: was a member of %s, which was taken away", role, group)
        changed = True
    for group in wanted - groups:
        await admin.execute(f"GRANT {quoted(group)} TO {name}")
        changed = True
    return changed


async def ensure_owner(admin: Connection[Record], client: PostgresAccount) -> bool:
    """Makes the role exist that owns what the client has. Where it may log in still, it is left to do so. True where something changed."""
    changed = await ensure_role(admin, client.name, belongs_to=None, inherit=False)
    if changed:
        log.info("role %s: owns what %s has", client.name, client.name)
    return changed


async def ensure_login(admin: Connection[Record], client: PostgresAccount) -> bool:
    """Makes the login of this generation work: it acts as the owner from the first statement on. True where something changed."""
    query = """
        SELECT rolcanlogin, rolpassword,
               ARRAY(SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = a.oid AND setdatabase = 0) AS settings
        FROM pg_authid a WHERE rolname = $1
    """
    name, password = quoted(client.login), client.password.get_secret_value()
    async with admin.transaction():  # a login that is there is whole
        changed = await ensure_role(admin, client.login, belongs_to=client.name, inherit=True)
        found = await admin.fetchrow(query, client.login)
        if found is None:
            raise AccountsError(f"the role {client.login} went while it was made: does somebody else manage the roles of this server?")
        if f"role={client.name}" not in found["settings"]:
            await admin.execute(f"ALTER ROLE {name} SET role TO {quoted(client.name)}")
            changed = True
        if not found["rolcanlogin"] or not scram.matches(password, found["rolpassword"]):
            await admin.execute(f"ALTER ROLE {name} LOGIN PASSWORD '{scram.verifier(password)}'")
            changed = True
    if changed:
        log.info("role %s: logs in for %s", client.login, client.name)
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


async def take_login(admin: Connection[Record], role: str) -> None:
    """The role may not log in any more, and its sessions end."""
    await admin.execute(f"ALTER ROLE {quoted(role)} NOLOGIN PASSWORD NULL")
    await admin.fetch("SELECT pg_terminate_backend(pid, $2) FROM pg_stat_activity WHERE usename = $1", role, SESSION_END_MS)


async def retire(admin: Connection[Record], declared: Collection[str], generation: int) -> list[str]:
    """Takes our obsolete logins, and the login of owners from before there were generations. Databases stay, and so do their owners."""
    query = """
        SELECT r.rolname, r.rolcanlogin, coalesce(string_agg(d.datname, ', '), 'none') AS databases
        FROM pg_roles r LEFT JOIN pg_database d ON d.datdba = r.oid
        WHERE shobj_description(r.oid, 'pg_authid') = $1 GROUP BY r.rolname, r.rolcanlogin ORDER BY r.rolname
    """
    retired: list[str] = []
    for row in await admin.fetch(query, MARK):
        role: str = row["rolname"]
        if not obsolete(role, declared, generation):
            continue
        owner = Login.parse(role).generation == 0
        if row["rolcanlogin"]:
            await take_login(admin, role)
            log.warning("role %s: may not log in any more; kept with all data: %s", role, row["databases"])
            retired.append(role)
        if not owner:
            try:
                await admin.execute(f"DROP ROLE {quoted(role)}")
            except asyncpg.DependentObjectsStillExistError as error:
                log.warning("role %s: kept without a login, because something hangs on it: %s", role, error.detail)
    return retired


async def verify(state: PostgresState, client: PostgresAccount, trust: ssl.SSLContext) -> None:
    """Logs in as the client. Raises AccountsError where that fails."""
    try:
        connection = await connect(state, client.login, client.password.get_secret_value(), client.database, trust)
    except asyncpg.PostgresError as error:
        raise AccountsError(f"{client.login} cannot log in to its database {client.database} after all was applied: {error}") from None
    try:
        acts_as = await connection.fetchval("SELECT current_user::text")
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
    if acts_as != client.name:
        raise AccountsError(f"{client.login} acts as {acts_as} instead of {client.name} after all was applied: run the Job again")


async def agree(admin: Connection[Record], state: PostgresState, *, wait_seconds: float) -> tuple[int, int]:
    """Makes roles and databases agree with `state`: how many clients changed, and how many logins were retired. Raises Late."""
    await lock(admin, wait_seconds)
    await keep_up(admin, state.generation)
    changed = 0
    for database in SYSTEM_DATABASES:
        await close_to_public(admin, database)
    for client in state.clients:
        owner = await ensure_owner(admin, client)
        database = await ensure_database(admin, client)
        await close_to_public(admin, client.database)
        login = await ensure_login(admin, client)
        changed += owner or database or login
    retired = await retire(admin, {client.login for client in state.clients}, state.generation) if state.retire else []
    await unlock(admin)
    return changed, len(retired)


async def apply(state: PostgresState, password: str, trust: ssl.SSLContext, *, wait_seconds: float) -> str:
    """Applies `state` and returns a line about what was done. Raises AccountsError, and Late where nothing was."""
    what = f"PostgreSQL at {state.host}:{state.port}"
    admin = await waiting.until(what, lambda: connect_admin(state, password, trust), seconds=wait_seconds)

    async def reload() -> None:
        await admin.execute("SELECT pg_reload_conf()")

    listener = Listener(state.host, state.port, postgres=True)
    try:
        changed, retired = await agree(admin, state, wait_seconds=wait_seconds)
        await certificates.wait_for(what, state.certificate, [listener], trust, reload=reload, seconds=wait_seconds)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise AccountsError(f"PostgreSQL refused a step: {error}. The steps before it stand; run the Job again when that is mended") from None
    finally:
        await admin.close(timeout=CONNECT_SECONDS)
    for client in state.clients:
        await verify(state, client, trust)
    return f"{len(state.clients)} clients can log in, {changed} of them changed, {retired} accounts retired"
