"""The accounts of RabbitMQ, applied to a real server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import AMQPError

from app.accounts import rabbitmq
from tests.app import servers
from tests.app.accounts.runs import PASSWORDS, Run, accounts
from tests.app.servers import RabbitMq


@pytest.fixture(scope="module")
def server() -> Generator[RabbitMq]:
    with servers.rabbitmq() as running:
        yield running


@asynccontextmanager
async def management(server: RabbitMq, user: str, password: str) -> AsyncGenerator[aiohttp.ClientSession]:
    trust = ssl.create_default_context(cafile=str(server.ca))
    async with aiohttp.ClientSession(
        base_url=f"https://localhost:{server.management_port}",
        headers={"Authorization": aiohttp.encode_basic_auth(user, password)},
        connector=aiohttp.TCPConnector(ssl=trust),
    ) as session:
        yield session


@pytest.fixture(autouse=True)
async def _empty(server: RabbitMq) -> None:
    """No test sees the users and virtual hosts of another one."""
    async with management(server, server.username, server.password) as admin:
        for kind in ("users", "vhosts"):
            async with admin.get(f"/api/{kind}") as answer:
                names = [entry["name"] for entry in await answer.json()]
            for name in names:
                if name not in {server.username, "/"}:
                    async with admin.delete(f"/api/{kind}/{name}") as answer:
                        assert answer.status == 204


def state(server: RabbitMq, *names: str, **passwords: str) -> dict[str, object]:
    clients = [{"name": name, "password": passwords.get(name, PASSWORDS[name]), "vhost": name} for name in names]
    return {"host": server.host, "port": server.management_port, "amqp_port": server.port, "admin": server.username, "clients": clients}


async def apply(server: RabbitMq, root: Path, *names: str, **passwords: str) -> Run:
    """Applied, and with success."""
    run = await asyncio.to_thread(accounts, "rabbitmq", server, root, state(server, *names, **passwords))
    assert run.code == 0, run.output
    return run


async def connect(server: RabbitMq, user: str, password: str, vhost: str) -> AbstractConnection:
    trust = ssl.create_default_context(cafile=str(server.ca))
    return await aio_pika.connect(
        host=server.host, port=server.port, login=user, password=password, virtualhost=vhost, ssl=True, ssl_context=trust, timeout=10
    )


async def may_log_in(server: RabbitMq, user: str, password: str, vhost: str) -> bool:
    try:
        connection = await connect(server, user, password, vhost)
    except AMQPError:
        return False
    await connection.close()
    return True


async def users(server: RabbitMq) -> Mapping[str, str]:
    async with management(server, server.username, server.password) as admin, admin.get("/api/users") as answer:
        return {user["name"]: user["password_hash"] for user in await answer.json()}


async def test_each_client_logs_in_to_its_own_virtual_host_and_to_no_other(server: RabbitMq, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders", "billing")
    assert await may_log_in(server, "orders", PASSWORDS["orders"], "orders")
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "billing")
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "/")
    assert not await may_log_in(server, "orders", PASSWORDS["billing"], "orders")


async def test_a_client_declares_queues_and_may_not_manage_the_server(server: RabbitMq, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    connection = await connect(server, "orders", PASSWORDS["orders"], "orders")
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("work", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"one"), "work")
        message = await queue.get(timeout=5)
        assert message.body == b"one"
    async with management(server, "orders", PASSWORDS["orders"]) as client, client.get("/api/users") as answer:
        assert answer.status == 401


async def test_a_second_run_changes_nothing(server: RabbitMq, tmp_path: Path) -> None:
    first = await apply(server, tmp_path, "orders")
    before = await users(server)
    second = await apply(server, tmp_path, "orders")
    assert "1 of them changed" in first.last
    assert "0 of them changed" in second.last
    assert await users(server) == before


async def test_a_rotation_refuses_the_old_password_and_keeps_the_messages(server: RabbitMq, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    connection = await connect(server, "orders", PASSWORDS["orders"], "orders")
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue("work", durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT), "work")
    rotated = "a-new-password-after-the-rotation"
    await apply(server, tmp_path, "orders", orders=rotated)
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "orders")
    connection = await connect(server, "orders", rotated, "orders")
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("work", durable=True)
        assert (await queue.get(timeout=5)).body == b"kept"


async def test_a_client_that_is_removed_loses_its_login_but_not_its_virtual_host(server: RabbitMq, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders", "billing")
    run = await apply(server, tmp_path, "orders")
    assert not await may_log_in(server, "billing", PASSWORDS["billing"], "billing")
    assert "queues are kept" in run.output
    async with management(server, server.username, server.password) as admin, admin.get("/api/vhosts/billing") as answer:
        assert answer.status == 200


async def test_permissions_elsewhere_are_taken_and_users_of_others_left(server: RabbitMq, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders", "billing")
    async with management(server, server.username, server.password) as admin:
        async with admin.put("/api/permissions/billing/orders", json=rabbitmq.EVERYTHING) as answer:
            assert answer.status == 201
        async with admin.put("/api/users/analyst", json={"password": "made-by-hand", "tags": "monitoring"}) as answer:
            assert answer.status == 201
        async with admin.put("/api/users/guest", json={"password": "guest", "tags": "administrator"}) as answer:
            assert answer.status == 201
    assert await may_log_in(server, "orders", PASSWORDS["orders"], "billing")
    await apply(server, tmp_path, "orders", "billing")
    assert not await may_log_in(server, "orders", PASSWORDS["orders"], "billing")
    assert set(await users(server)) == {server.username, "analyst", "orders", "billing"}


async def test_no_password_reaches_the_program_s_output_or_the_server_s_log(server: RabbitMq, tmp_path: Path) -> None:
    run = await apply(server, tmp_path, "orders")
    for secret in (PASSWORDS["orders"], server.password):
        assert secret not in run.output
        assert secret not in server.log_text()


async def test_a_wrong_admin_password_is_said_with_the_fix(server: RabbitMq, tmp_path: Path) -> None:
    run = await asyncio.to_thread(accounts, "rabbitmq", server, tmp_path, state(server, "orders"), admin="not-the-password-of-rabbitmq")
    assert run.code == 1
    assert "created with another one" in run.last


async def test_a_frozen_server_is_given_up_with_a_reason(server: RabbitMq, tmp_path: Path) -> None:
    server.pause()
    try:
        run = await asyncio.to_thread(accounts, "rabbitmq", server, tmp_path, state(server, "orders"), wait_seconds=3)
    finally:
        server.resume()
    assert run.code == 1
    assert "did not answer within 3 s" in run.last


async def test_a_lost_volume_gets_its_accounts_back_while_the_server_still_starts(server: RabbitMq, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    server.kill()
    server.wipe()
    server.spawn()
    run = await apply(server, tmp_path, "orders")
    assert "waiting for RabbitMQ" in run.output
    assert await may_log_in(server, "orders", PASSWORDS["orders"], "orders")


def test_a_hash_is_what_rabbitmq_documents() -> None:
    # https://www.rabbitmq.com/docs/passwords#computing-password-hash: "test12" with the salt 908D C60A
    kept = rabbitmq.password_hash("test12", salt=bytes.fromhex("908DC60A"))
    assert kept == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    assert rabbitmq.hash_matches("test12", kept)
    assert not rabbitmq.hash_matches("test13", kept)
