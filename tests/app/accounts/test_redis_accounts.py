"""The users of Redis, applied to a real server whose access list lies on its volume."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from tests.app.accounts.kinds import RedisKind
from tests.app.accounts.runs import accounts, password, said
from tests.app.pki import Authority


@pytest.fixture(scope="module")
def running() -> Generator[RedisKind]:
    kind = RedisKind()
    try:
        kind.server.start()
        yield kind
    finally:
        kind.server.close()


@pytest.fixture
async def redis(running: RedisKind) -> RedisKind:
    """No test sees the users and keys of another one."""
    if not running.server.running:
        running.server.start()
    await running.clear()
    return running


def saved(redis: RedisKind) -> str:
    """The access list's file."""
    return (redis.server.data / "users.acl").read_text()


async def test_each_client_has_its_own_keys_and_no_others(redis: RedisKind, tmp_path: Path) -> None:
    await redis.apply(tmp_path, ["orders", "billing"])
    assert await redis.ask("SET", "orders:1", "x", user="orders.1", secret=password("orders")) is True
    with pytest.raises(NoPermissionError):
        await redis.ask("GET", "orders:1", user="billing.1", secret=password("billing"))


async def test_both_generations_share_the_client_s_keys(redis: RedisKind, tmp_path: Path) -> None:
    await redis.apply(tmp_path, ["orders"])
    await redis.apply(tmp_path, ["orders"], 2)
    assert await redis.ask("SET", "orders:1", "x", user="orders.1", secret=password("orders")) is True
    assert await redis.ask("GET", "orders:1", user="orders.2", secret=password("orders", 2)) == "x"


async def test_the_file_has_what_the_server_has_and_no_password(redis: RedisKind, tmp_path: Path) -> None:
    await redis.apply(tmp_path, ["orders"], 2, retire=True)
    for line in (await redis.accounts()).values():
        assert str(line) in saved(redis)
    assert password("orders", 2) not in saved(redis)


async def test_users_that_a_run_made_and_did_not_come_to_save_are_saved_by_the_next_one(redis: RedisKind, tmp_path: Path) -> None:
    await redis.apply(tmp_path, ["orders"])
    file = redis.server.data / "users.acl"
    file.write_text("".join(line for line in saved(redis).splitlines(keepends=True) if "orders.1" not in line))
    run = await redis.apply(tmp_path, ["orders"])
    assert "0 of them changed" in run.last
    redis.server.restart()
    assert await redis.lets_in("orders")


async def test_rights_that_were_added_by_hand_are_taken_and_open_connections_stay(redis: RedisKind, tmp_path: Path) -> None:
    await redis.apply(tmp_path, ["orders"])
    async with redis.logged_in("orders") as alive:
        await redis.ask("ACL SETUSER", "orders.1", "allkeys", "+@all", ">another-password")
        run = await redis.apply(tmp_path, ["orders"])
        await alive()
    assert "1 of them changed" in run.last
    with pytest.raises(NoPermissionError):
        await redis.ask("GET", "billing:1", user="orders.1", secret=password("orders"))


async def test_a_user_that_somebody_else_made_is_left_alone(redis: RedisKind, tmp_path: Path) -> None:
    await redis.ask("ACL SETUSER", "analyst", "on", ">made-by-hand", "~*", "+get")
    before = await redis.accounts()
    await redis.apply(tmp_path, ["orders"], 2, retire=True)
    after = await redis.accounts()
    assert after["analyst"] == before["analyst"]


async def test_administrator_and_probe_are_never_retired(redis: RedisKind, tmp_path: Path) -> None:
    await redis.apply(tmp_path, ["admin", "probe-service"], 2, retire=True)
    assert await redis.ask("PING") is True
    assert await redis.ask("PING", user="probe", secret="probe") is True


async def test_only_the_newest_generation_is_remembered_and_its_user_can_do_nothing(redis: RedisKind, tmp_path: Path) -> None:
    await redis.apply(tmp_path, ["orders"])
    await redis.apply(tmp_path, ["orders"], 2)
    marks = [line for line in saved(redis).splitlines() if "generation:" in line]
    assert len(marks) == 1
    assert marks[0].startswith("user generation:2 off ")
    assert "-@all" in marks[0]
    assert "nopass" not in marks[0]


async def test_a_rule_that_redis_does_not_know_is_said(redis: RedisKind, tmp_path: Path) -> None:
    state = redis.state([])
    client = {**redis.client("orders", 1), "rules": ["~orders:*", "+nonsense"]}
    run = await redis.run(tmp_path, {**state, "clients": [client]})
    assert run.code == 1
    assert "+nonsense" in run.last


async def test_no_password_reaches_the_program_s_output_or_the_server_s_log(redis: RedisKind, tmp_path: Path) -> None:
    run = await redis.apply(tmp_path, ["orders"], 2, retire=True)
    for secret in (password("orders", 2), redis.server.password):
        assert secret not in run.output
        assert secret not in redis.server.log_text()


async def test_a_wrong_admin_password_is_said_with_the_fix(redis: RedisKind, tmp_path: Path) -> None:
    run = await asyncio.to_thread(accounts, "redis", redis.server, tmp_path, redis.state(["orders"]), admin="not-the-password-of-redis")
    assert run.code == 1
    assert "Restart its pod" in run.last
    assert "waiting" not in run.output


async def test_it_waits_for_a_server_that_starts_later(redis: RedisKind, tmp_path: Path) -> None:
    redis.server.stop()
    waiting = asyncio.create_task(redis.apply(tmp_path, ["orders"]))
    await said(tmp_path, "waiting for Redis")
    redis.server.start()
    await waiting
    assert await redis.lets_in("orders")


async def test_a_frozen_server_is_given_up_with_a_reason(redis: RedisKind, tmp_path: Path) -> None:
    redis.server.pause()
    try:
        run = await redis.run(tmp_path, redis.state(["orders"]), wait_seconds=1)
    finally:
        redis.server.resume()
    assert run.code == 1
    assert "did not answer within 1 s" in run.last


async def test_a_certificate_of_another_authority_is_not_waited_for(redis: RedisKind, tmp_path: Path) -> None:
    genuine = redis.server.ca.read_text()
    redis.server.ca.write_text(Authority("stranger").certificate)
    try:
        run = await redis.run(tmp_path, redis.state([]))
    finally:
        redis.server.ca.write_text(genuine)
    assert run.code == 1
    assert "certificate that does not verify" in run.last
    assert "waiting" not in run.output
