"""The accounts of PostgreSQL, applied to a real server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from asyncpg import Connection, Record

from app.accounts import scram
from tests.app import servers
from tests.app.accounts.runs import PASSWORDS, Run, accounts
from tests.app.servers import Postgres


@pytest.fixture(scope="module")
def server() -> Generator[Postgres]:
    with servers.postgres() as running:
        yield running


@pytest.fixture(autouse=True)
async def _empty(server: Postgres) -> None:
    """No test sees the roles and databases of another one."""
    if not server.running:
        server.start()
    async with connection(server, server.username, server.password) as admin:
        for row in await admin.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"):
            await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')
        for row in await admin.fetch("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'"):
            await admin.execute(f'DROP ROLE "{row["rolname"]}"')


@asynccontextmanager
async def connection(server: Postgres, user: str, password: str, database: str = "postgres") -> AsyncGenerator[Connection[Record]]:
    trust = ssl.create_default_context(cafile=str(server.ca))
    opened: Connection[Record] = await asyncpg.connect(
        host=server.host, port=server.port, user=user, password=password, database=database, ssl=trust, timeout=10
    )
    try:
        yield opened
    finally:
        await opened.close()


def state(server: Postgres, *names: str, **passwords: str) -> dict[str, object]:
    clients = [{"name": name, "password": passwords.get(name, PASSWORDS[name]), "database": name} for name in names]
    return {"host": server.host, "port": server.port, "admin": server.username, "clients": clients}


async def may_log_in(server: Postgres, user: str, password: str, database: str) -> bool:
    try:
        async with connection(server, user, password, database):
            return True
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError):
        return False


async def apply(server: Postgres, root: Path, *names: str, **passwords: str) -> Run:
    """Applied, and with success."""
    run = await asyncio.to_thread(accounts, "postgres", server, root, state(server, *names, **passwords))
    assert run.code == 0, run.output
    return run


async def test_each_client_logs_in_to_its_own_database_and_to_no_other(server: Postgres, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders", "billing")
    assert await may_log_in(server, "orders", PASSWORDS["orders"], "orders")
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "billing")
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "postgres")
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "template1")
    assert not await may_log_in(server, "orders", PASSWORDS["billing"], "orders")


async def test_a_client_owns_its_database_and_makes_tables_in_it(server: Postgres, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    async with connection(server, "orders", PASSWORDS["orders"], "orders") as orders:
        await orders.execute("CREATE TABLE placed (id int)")
        await orders.execute("CREATE SCHEMA archive")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await orders.execute("CREATE ROLE friend")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await orders.execute("CREATE DATABASE another")


async def test_a_second_run_changes_nothing(server: Postgres, tmp_path: Path) -> None:
    first = await apply(server, tmp_path, "orders")
    async with connection(server, server.username, server.password) as admin:
        before = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'orders'")
        second = await apply(server, tmp_path, "orders")
        after = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'orders'")
    assert "1 of them changed" in first.last
    assert "0 of them changed" in second.last
    assert before == after


async def test_a_rotation_refuses_the_old_password_and_keeps_the_data(server: Postgres, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    async with connection(server, "orders", PASSWORDS["orders"], "orders") as orders:
        await orders.execute("CREATE TABLE placed AS SELECT 7 AS id")
    rotated = "a-new-password-after-the-rotation"
    await apply(server, tmp_path, "orders", orders=rotated)
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "orders")
    async with connection(server, "orders", rotated, "orders") as orders:
        assert await orders.fetchval("SELECT id FROM placed") == 7


async def test_a_client_that_is_removed_loses_its_login_at_once_but_no_data(server: Postgres, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders", "billing")
    async with connection(server, "billing", PASSWORDS["billing"], "billing") as billing:
        await billing.execute("CREATE TABLE paid AS SELECT 9 AS id")
        run = await apply(server, tmp_path, "orders")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await billing.fetchval("SELECT 1")
    assert not await may_log_in(server, "billing", PASSWORDS["billing"], "billing")
    assert "kept with all data: billing" in run.output
    await apply(server, tmp_path, "orders", "billing")
    async with connection(server, "billing", PASSWORDS["billing"], "billing") as billing:
        assert await billing.fetchval("SELECT id FROM paid") == 9


async def test_a_role_that_somebody_else_made_is_left_alone(server: Postgres, tmp_path: Path) -> None:
    async with connection(server, server.username, server.password) as admin:
        await admin.execute("CREATE ROLE analyst LOGIN PASSWORD 'made-by-hand'")
    await apply(server, tmp_path, "orders")
    async with connection(server, server.username, server.password) as admin:
        assert await admin.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'analyst'") is True


async def test_rights_beyond_its_database_are_taken_from_a_client(server: Postgres, tmp_path: Path) -> None:
    async with connection(server, server.username, server.password) as admin:
        await admin.execute("CREATE ROLE orders SUPERUSER CREATEDB LOGIN")
    await apply(server, tmp_path, "orders")
    async with connection(server, server.username, server.password) as admin:
        assert await admin.fetchval("SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = 'orders'") is False


async def test_a_lost_volume_gets_its_accounts_back(server: Postgres, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    server.kill()
    server.wipe()
    server.start()
    await apply(server, tmp_path, "orders")
    assert await may_log_in(server, "orders", PASSWORDS["orders"], "orders")


async def test_a_job_and_a_cron_job_may_run_at_the_same_time(server: Postgres, tmp_path: Path) -> None:
    both = [apply(server, tmp_path / name, "orders", "billing", "search") for name in ("job", "cron")]
    await asyncio.gather(*both)
    assert await may_log_in(server, "search", PASSWORDS["search"], "search")


async def test_no_password_reaches_the_program_s_output_or_the_server_s_log(server: Postgres, tmp_path: Path) -> None:
    async with connection(server, server.username, server.password) as admin:
        await admin.execute("ALTER SYSTEM SET log_statement = 'all'")
        await admin.execute("SELECT pg_reload_conf()")
        run = await apply(server, tmp_path, "orders")
        await admin.execute("ALTER SYSTEM RESET log_statement")
        await admin.execute("SELECT pg_reload_conf()")
    assert "CREATE ROLE" in server.log_text()
    for secret in (PASSWORDS["orders"], server.password):
        assert secret not in server.log_text()
        assert secret not in run.output


async def test_a_wrong_admin_password_is_said_with_the_fix(server: Postgres, tmp_path: Path) -> None:
    run = await asyncio.to_thread(accounts, "postgres", server, tmp_path, state(server, "orders"), admin="not-the-password-of-postgres")
    assert run.code == 1
    assert "created with another one" in run.last
    assert "not-the-password" not in run.output


async def test_it_waits_for_a_server_that_starts_later(server: Postgres, tmp_path: Path) -> None:
    server.stop()
    waiting = asyncio.create_task(apply(server, tmp_path, "orders"))
    await asyncio.sleep(2)
    server.start()
    run = await waiting
    assert "waiting for PostgreSQL" in run.output
    assert await may_log_in(server, "orders", PASSWORDS["orders"], "orders")


async def test_a_server_that_never_comes_is_given_up_with_a_reason(server: Postgres, tmp_path: Path) -> None:
    server.stop()
    run = await asyncio.to_thread(accounts, "postgres", server, tmp_path, state(server), wait_seconds=2)
    assert run.code == 1
    assert "did not answer within 2 s" in run.last


async def test_a_certificate_of_another_authority_is_not_waited_for(server: Postgres, tmp_path: Path) -> None:
    stranger = servers.Authority("stranger").certificate
    genuine = server.ca.read_text()
    server.ca.write_text(stranger)
    try:
        run = await asyncio.to_thread(accounts, "postgres", server, tmp_path, state(server), wait_seconds=20)
    finally:
        server.ca.write_text(genuine)
    assert run.code == 1
    assert "certificate that does not verify" in run.last


def test_a_verifier_is_what_postgresql_itself_computes() -> None:
    # The example of RFC 7677, section 3: the server key proves itself by the signature that stands there.
    kept = scram.verifier("pencil", salt=b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81", iterations=4096)
    assert (
        kept
        == "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert scram.matches("pencil", kept)
    assert not scram.matches("pencils", kept)
    assert not scram.matches("pencil", None)
