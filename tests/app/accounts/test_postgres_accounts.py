"""The accounts of PostgreSQL, applied to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path

import asyncpg
import pytest

from app.accounts import scram
from tests.app.accounts.kinds import PostgresKind
from tests.app.accounts.runs import accounts, password, said
from tests.app.pki import Authority


@pytest.fixture(scope="module")
def running() -> Generator[PostgresKind]:
    kind = PostgresKind()
    try:
        kind.server.start()
        yield kind
    finally:
        kind.server.close()


@pytest.fixture
async def postgres(running: PostgresKind) -> PostgresKind:
    """No test sees the roles and databases of another one."""
    if not running.server.running:
        running.server.start()
    await running.clear()
    return running


async def may_log_in(postgres: PostgresKind, user: str, secret: str, database: str) -> bool:
    try:
        async with postgres.connection(user, secret, database):
            return True
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError):
        return False


async def test_each_client_logs_in_to_its_own_database_and_to_no_other(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["orders", "billing"])
    assert await may_log_in(postgres, "orders.1", password("orders"), "orders")
    assert not await may_log_in(postgres, "orders.1", password("orders"), "billing")
    assert not await may_log_in(postgres, "orders.1", password("orders"), "postgres")
    assert not await may_log_in(postgres, "orders.1", password("orders"), "template1")
    assert not await may_log_in(postgres, "orders.1", password("billing"), "orders")


async def test_a_client_s_database_has_an_owner_that_cannot_log_in(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["orders"])
    async with postgres.admin() as admin:
        assert await admin.fetchval("SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'orders'") == "orders"
        assert await admin.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'orders'") is False
    assert not await may_log_in(postgres, "orders", password("orders"), "orders")


async def test_a_client_makes_tables_in_its_database_and_no_roles_or_databases(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["orders"])
    async with postgres.connection("orders.1", password("orders"), "orders") as orders:
        await orders.execute("CREATE TABLE placed (id int)")
        await orders.execute("CREATE SCHEMA archive")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await orders.execute("CREATE ROLE friend")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await orders.execute("CREATE DATABASE another")


async def test_what_one_generation_makes_the_other_reads_and_alters_both_ways(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["user-service"])
    await postgres.apply(tmp_path, ["user-service"], 2)
    for maker, other in ((1, 2), (2, 1)):
        async with (
            postgres.connection(f"user-service.{maker}", password("user-service", maker), "user-service") as made,
            postgres.connection(f"user-service.{other}", password("user-service", other), "user-service") as taken,
        ):
            await made.execute(f"CREATE TABLE of_{maker} AS SELECT 7 AS id")
            assert await taken.fetchval(f"SELECT id FROM of_{maker}") == 7
            await taken.execute(f"ALTER TABLE of_{maker} ADD COLUMN note text")
            await taken.execute(f"DROP TABLE of_{maker}")


async def test_what_was_made_before_there_were_generations_belongs_to_the_first_one(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.make_old("orders")
    async with postgres.connection("orders", password("orders", 0), "orders") as old:
        await old.execute("CREATE TABLE placed AS SELECT 7 AS id")
        await postgres.apply(tmp_path, ["orders"])
        async with postgres.connection("orders.1", password("orders"), "orders") as orders:
            assert await orders.fetchval("SELECT id FROM placed") == 7
            await orders.execute("ALTER TABLE placed ADD COLUMN note text")
            await orders.execute("CREATE TABLE newer AS SELECT 8 AS id")
        assert await old.fetchval("SELECT id FROM newer") == 8


@pytest.mark.parametrize("reset", ["RESET ALL", "RESET ROLE", "DISCARD ALL", "SET SESSION AUTHORIZATION DEFAULT; RESET ALL"])
async def test_a_session_that_a_pool_has_reset_acts_as_the_owner_still(postgres: PostgresKind, tmp_path: Path, reset: str) -> None:
    await postgres.apply(tmp_path, ["orders"])
    async with postgres.connection("orders.1", password("orders"), "orders") as orders:
        await orders.execute(reset)
        assert await orders.fetchval("SELECT current_user::text") == "orders"


async def test_a_login_that_made_something_in_its_own_name_stays_for_it_without_a_login(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["orders"])
    async with postgres.connection("orders.1", password("orders"), "orders") as orders:
        await orders.execute("SET ROLE NONE; CREATE TABLE mine (id int)")
    run = await postgres.apply(tmp_path, ["orders"], 2, retire=True)
    assert "role orders.1: kept without a login" in run.output
    assert not await postgres.lets_in("orders", 1)
    await postgres.apply(tmp_path, ["orders"], 2, retire=True)


async def test_a_retired_login_is_gone_and_one_on_which_something_hangs_stays_without_a_login(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["orders", "billing"])
    async with postgres.admin("orders") as admin:
        await admin.execute('CREATE TABLE placed (id int); GRANT SELECT ON placed TO "orders.1"')
    run = await postgres.apply(tmp_path, ["orders", "billing"], 2, retire=True)
    assert set(await postgres.accounts()) == {"orders", "billing", "orders.1", "orders.2", "billing.2"}
    assert "kept without a login, because something hangs on it" in run.output
    async with postgres.admin() as admin:
        row = await admin.fetchrow("SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = 'orders.1'")
        assert row is not None
        assert tuple(row) == (False, None)


async def test_a_client_that_is_removed_loses_no_data(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["orders", "billing"])
    async with postgres.connection("billing.1", password("billing"), "billing") as billing:
        await billing.execute("CREATE TABLE paid AS SELECT 9 AS id")
    await postgres.apply(tmp_path, ["orders"], retire=True)
    await postgres.apply(tmp_path, ["orders", "billing"])
    async with postgres.connection("billing.1", password("billing"), "billing") as billing:
        assert await billing.fetchval("SELECT id FROM paid") == 9


async def test_the_owner_of_a_removed_client_s_data_is_named(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.make_old("billing")
    run = await postgres.apply(tmp_path, ["orders"], retire=True)
    assert "role billing: may not log in any more; kept with all data: billing" in run.output
    assert not await postgres.lets_in("billing", 0)


async def test_nobody_becomes_the_owner_of_another_client_s_data(postgres: PostgresKind, tmp_path: Path) -> None:
    await postgres.apply(tmp_path, ["orders", "billing"])
    async with postgres.connection("orders.1", password("orders"), "orders") as orders:
        for role in ("billing", "billing.1", "postgres"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await orders.execute(f'SET ROLE "{role}"')


@pytest.mark.parametrize(("member", "group"), [("orders.1", "billing"), ("orders", "billing.1"), ("orders", "pg_read_all_data")])
async def test_a_membership_beyond_its_own_owner_is_taken_away(postgres: PostgresKind, tmp_path: Path, member: str, group: str) -> None:
    await postgres.apply(tmp_path, ["orders", "billing"])
    async with postgres.admin() as admin:
        await admin.execute(f'GRANT "{group}" TO "{member}"')
    run = await postgres.apply(tmp_path, ["orders", "billing"])
    assert f"role {member}: was a member of {group}, which was taken away" in run.output
    async with postgres.connection("orders.1", password("orders"), "orders") as orders:
        assert await orders.fetchval("SELECT pg_has_role('orders.1', $1::text::name, 'MEMBER')", group) is False


@pytest.mark.parametrize("damage", ['REVOKE orders FROM "orders.1"', 'ALTER ROLE "orders.1" RESET role', 'ALTER ROLE "orders.1" NOINHERIT'])
async def test_a_login_that_acts_for_its_owner_no_longer_is_mended(postgres: PostgresKind, tmp_path: Path, damage: str) -> None:
    await postgres.apply(tmp_path, ["orders"])
    before = await postgres.accounts()
    async with postgres.admin() as admin:
        await admin.execute(damage)
    run = await postgres.apply(tmp_path, ["orders"])
    assert "1 of them changed" in run.last
    assert await postgres.accounts() == before
    async with postgres.connection("orders.1", password("orders"), "orders") as orders:
        await orders.execute("CREATE TABLE placed (id int)")


async def test_a_role_that_somebody_else_made_is_left_alone(postgres: PostgresKind, tmp_path: Path) -> None:
    async with postgres.admin() as admin:
        await admin.execute("CREATE ROLE analyst LOGIN PASSWORD 'made-by-hand'")
        await admin.execute("CREATE ROLE \"analyst.1\" LOGIN PASSWORD 'made-by-hand'")
    await postgres.apply(tmp_path, ["orders"], 2, retire=True)
    async with postgres.admin() as admin:
        assert await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname ~ '^analyst' AND rolcanlogin") == 2


@pytest.mark.parametrize("role", ["orders", "orders.1"])
async def test_rights_beyond_its_database_are_taken_from_a_client(postgres: PostgresKind, tmp_path: Path, role: str) -> None:
    async with postgres.admin() as admin:
        await admin.execute(f'CREATE ROLE "{role}" SUPERUSER CREATEDB LOGIN')
    await postgres.apply(tmp_path, ["orders"])
    async with postgres.admin() as admin:
        assert await admin.fetchval("SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = $1", role) is False


async def test_a_job_and_a_cron_job_may_run_at_the_same_time(postgres: PostgresKind, tmp_path: Path) -> None:
    both = [postgres.apply(tmp_path / name, ["orders", "billing", "search"]) for name in ("job", "cron")]
    await asyncio.gather(*both)
    assert await postgres.lets_in("search")


async def test_the_work_of_another_run_is_waited_for_and_not_for_ever(postgres: PostgresKind, tmp_path: Path) -> None:
    async with postgres.admin() as admin:
        await admin.execute("SELECT pg_advisory_lock(x'67726F756E64'::bigint)")
        run = await postgres.run(tmp_path, postgres.state(["orders"]), wait_seconds=2)
    assert run.code == 1
    assert "another run of the accounts Job or CronJob was at work for 2 s" in run.last


async def test_no_password_reaches_the_program_s_output_or_the_server_s_log(postgres: PostgresKind, tmp_path: Path) -> None:
    async with postgres.admin() as admin:
        await admin.execute("ALTER SYSTEM SET log_statement = 'all'")
        await admin.execute("SELECT pg_reload_conf()")
        run = await postgres.apply(tmp_path, ["orders"], certificate=None)
        await admin.execute("ALTER SYSTEM RESET log_statement")
        await admin.execute("SELECT pg_reload_conf()")
    assert "CREATE ROLE" in postgres.server.log_text()
    for secret in (password("orders"), postgres.server.password):
        assert secret not in postgres.server.log_text()
        assert secret not in run.output


async def test_asking_for_the_certificate_leaves_no_complaint_in_the_server_s_log(postgres: PostgresKind, tmp_path: Path) -> None:
    shown = postgres.issue()
    postgres.mount(shown)
    await postgres.apply(tmp_path, ["orders"], certificate=shown.sha256)
    before = len(postgres.server.log_text())
    await postgres.apply(tmp_path, ["orders"], certificate=shown.sha256)
    assert postgres.server.log_text()[before:] == ""


async def test_a_wrong_admin_password_is_said_with_the_fix(postgres: PostgresKind, tmp_path: Path) -> None:
    run = await asyncio.to_thread(accounts, "postgres", postgres.server, tmp_path, postgres.state(["orders"]), admin="not-the-password-of-postgres")
    assert run.code == 1
    assert "created with another one" in run.last
    assert "not-the-password" not in run.output


async def test_it_waits_for_a_server_that_starts_later(postgres: PostgresKind, tmp_path: Path) -> None:
    postgres.server.stop()
    waiting = asyncio.create_task(postgres.apply(tmp_path, ["orders"]))
    await said(tmp_path, "waiting for PostgreSQL")
    postgres.server.start()
    await waiting
    assert await postgres.lets_in("orders")


async def test_a_server_that_never_comes_is_given_up_with_a_reason(postgres: PostgresKind, tmp_path: Path) -> None:
    postgres.server.stop()
    run = await postgres.run(tmp_path, postgres.state([]), wait_seconds=2)
    assert run.code == 1
    assert "did not answer within 2 s" in run.last


async def test_a_certificate_of_another_authority_is_not_waited_for(postgres: PostgresKind, tmp_path: Path) -> None:
    genuine = postgres.server.ca.read_text()
    postgres.server.ca.write_text(Authority("stranger").certificate)
    try:
        run = await postgres.run(tmp_path, postgres.state([]))
    finally:
        postgres.server.ca.write_text(genuine)
    assert run.code == 1
    assert "certificate that does not verify" in run.last
    assert "waiting" not in run.output


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
