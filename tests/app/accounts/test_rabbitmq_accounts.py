"""The accounts of RabbitMQ, applied to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import AMQPError

from app.accounts import rabbitmq as program
from tests.app.accounts.kinds import RabbitmqKind
from tests.app.accounts.runs import accounts, password, said


@pytest.fixture(scope="module")
def running() -> Generator[RabbitmqKind]:
    kind = RabbitmqKind()
    try:
        kind.server.start()
        yield kind
    finally:
        kind.server.close()


@pytest.fixture
async def rabbitmq(running: RabbitmqKind) -> RabbitmqKind:
    """No test sees the users and virtual hosts of another one."""
    await running.clear()
    return running


async def connect(rabbitmq: RabbitmqKind, user: str, secret: str, vhost: str) -> AbstractConnection:
    server = rabbitmq.server
    return await aio_pika.connect(
        host=server.host, port=server.port, login=user, password=secret, virtualhost=vhost, ssl=True, ssl_context=rabbitmq.trust(), timeout=60
    )


async def may_log_in(rabbitmq: RabbitmqKind, user: str, secret: str, vhost: str) -> bool:
    try:
        connection = await connect(rabbitmq, user, secret, vhost)
    except AMQPError:
        return False
    await connection.close()
    return True


async def test_each_client_logs_in_to_its_own_virtual_host_and_to_no_other(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    await rabbitmq.apply(tmp_path, ["orders", "billing"])
    assert await may_log_in(rabbitmq, "orders.1", password("orders"), "orders")
    assert not await may_log_in(rabbitmq, "orders.1", password("orders"), "billing")
    assert not await may_log_in(rabbitmq, "orders.1", password("orders"), "/")
    assert not await may_log_in(rabbitmq, "orders.1", password("billing"), "orders")


async def test_a_client_declares_queues_and_may_not_manage_the_server(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    await rabbitmq.apply(tmp_path, ["orders"])
    connection = await connect(rabbitmq, "orders.1", password("orders"), "orders")
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("work", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"one"), "work")
        message = await queue.get(timeout=30)
        assert message.body == b"one"
    headers = {"Authorization": aiohttp.encode_basic_auth("orders.1", password("orders"))}
    async with rabbitmq.admin() as session, session.get("/api/users", headers=headers) as answer:
        assert answer.status == 401


async def test_messages_of_one_generation_are_received_by_the_next(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    await rabbitmq.apply(tmp_path, ["orders"])
    async with await connect(rabbitmq, "orders.1", password("orders"), "orders") as connection:
        channel = await connection.channel()
        await channel.declare_queue("work", durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT), "work")
    await rabbitmq.apply(tmp_path, ["orders"], 2, retire=True)
    async with await connect(rabbitmq, "orders.2", password("orders", 2), "orders") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("work", durable=True)
        assert (await queue.get(timeout=30)).body == b"kept"


async def test_a_client_that_is_removed_keeps_its_virtual_host(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    await rabbitmq.apply(tmp_path, ["orders", "billing"])
    run = await rabbitmq.apply(tmp_path, ["orders"], retire=True)
    assert "queues are kept" in run.output
    status, _ = await rabbitmq.call("GET", "/api/vhosts/billing")
    assert status == 200


async def test_permissions_elsewhere_are_taken_and_users_of_others_left(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    await rabbitmq.apply(tmp_path, ["orders", "billing"])
    await rabbitmq.call("PUT", "/api/permissions/billing/orders.1", program.EVERYTHING)
    await rabbitmq.call("PUT", "/api/users/analyst", {"password": "made-by-hand", "tags": "monitoring"})
    await rabbitmq.call("PUT", "/api/users/analyst.1", {"password": "made-by-hand", "tags": "monitoring"})
    assert await may_log_in(rabbitmq, "orders.1", password("orders"), "billing")
    await rabbitmq.apply(tmp_path, ["orders", "billing"], retire=True)
    assert not await may_log_in(rabbitmq, "orders.1", password("orders"), "billing")
    assert set(await rabbitmq.accounts()) == {"analyst", "analyst.1", "orders.1", "billing.1"}


async def test_the_user_whose_password_everybody_knows_goes_at_once(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    await rabbitmq.call("PUT", "/api/users/guest", {"password": "guest", "tags": "administrator"})
    run = await rabbitmq.apply(tmp_path, ["orders"])
    assert "guest" not in await rabbitmq.accounts()
    assert "user guest: removed" in run.output
    again = await rabbitmq.apply(tmp_path, ["orders"])
    assert "guest" not in again.output


async def test_no_password_reaches_the_program_s_output_or_the_server_s_log(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    run = await rabbitmq.apply(tmp_path, ["orders"])
    for secret in (password("orders"), rabbitmq.server.password):
        assert secret not in run.output
        assert secret not in rabbitmq.server.log_text()


async def test_a_wrong_admin_password_is_said_with_the_fix(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    run = await asyncio.to_thread(accounts, "rabbitmq", rabbitmq.server, tmp_path, rabbitmq.state(["orders"]), admin="not-the-password-of-rabbitmq")
    assert run.code == 1
    assert "created with another one" in run.last


async def test_a_frozen_server_is_given_up_with_a_reason(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    rabbitmq.server.pause()
    try:
        run = await rabbitmq.run(tmp_path, rabbitmq.state(["orders"]), wait_seconds=3)
    finally:
        rabbitmq.server.resume()
    assert run.code == 1
    assert "did not answer within 3 s" in run.last


async def test_it_waits_for_a_server_that_starts_with_an_empty_volume(rabbitmq: RabbitmqKind, tmp_path: Path) -> None:
    rabbitmq.server.kill()
    rabbitmq.server.wipe()
    waiting = asyncio.create_task(rabbitmq.apply(tmp_path, ["orders"]))
    await said(tmp_path, "waiting for RabbitMQ")
    rabbitmq.server.spawn()
    await waiting
    assert await rabbitmq.lets_in("orders")


def test_a_hash_is_what_rabbitmq_documents() -> None:
    # https://www.rabbitmq.com/docs/passwords#computing-password-hash: "test12" with the salt 908D C60A
    kept = program.password_hash("test12", salt=bytes.fromhex("908DC60A"))
    assert kept == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    assert program.hash_matches("test12", kept)
    assert not program.hash_matches("test13", kept)
