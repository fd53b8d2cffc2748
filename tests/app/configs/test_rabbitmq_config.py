"""RabbitMQ's configuration exactly as the component renders it, on the real server."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path

import aio_pika
import pytest
from aiormq.exceptions import AMQPError

from components import rabbitmq, stateful
from tests.app.configs.places import moved, started
from tests.app.pki import Authority
from tests.app.servers import RabbitMq


@pytest.fixture(scope="module")
def configured_rabbitmq() -> Generator[RabbitMq]:
    server = RabbitMq(Authority(), plugins=rabbitmq.PLUGINS)
    places = {
        stateful.TLS: server.folder / "tls",
        stateful.CA: server.folder / "ca",
        f"listeners.ssl.default = {rabbitmq.PORT}": f"listeners.ssl.default = 127.0.0.1:{server.port}",
        f"management.ssl.port = {rabbitmq.MANAGEMENT_PORT}": f"management.ssl.port = {server.management_port}\nmanagement.ssl.ip = 127.0.0.1",
    }
    text = moved(rabbitmq.server_config(512, 1), places)
    (server.folder / "rabbitmq.conf").write_text(text + rabbitmq.admin_config(server.password))
    with started(server):
        yield server


async def amqp(server: RabbitMq, password: str, *, tls: bool = True) -> None:
    trust = ssl.create_default_context(cafile=str(server.ca)) if tls else None
    connection = await aio_pika.connect(host=server.host, port=server.port, login="admin", password=password, ssl=tls, ssl_context=trust, timeout=5)
    await connection.close()


async def test_rabbitmq_takes_the_right_password_over_tls(configured_rabbitmq: RabbitMq) -> None:
    await amqp(configured_rabbitmq, configured_rabbitmq.password)


async def test_rabbitmq_refuses_a_wrong_password(configured_rabbitmq: RabbitMq) -> None:
    with pytest.raises(AMQPError):
        await amqp(configured_rabbitmq, "password")


async def test_rabbitmq_refuses_plaintext(configured_rabbitmq: RabbitMq) -> None:
    with pytest.raises((AMQPError, OSError)):
        await amqp(configured_rabbitmq, configured_rabbitmq.password, tls=False)


def test_rabbitmq_has_no_guest_and_its_management_no_plaintext(configured_rabbitmq: RabbitMq) -> None:
    server = configured_rabbitmq
    with pytest.raises((http.client.HTTPException, OSError)):
        urllib.request.urlopen(f"http://127.0.0.1:{server.management_port}/api/overview", timeout=5)
    trust = ssl.create_default_context(cafile=str(server.ca))
    guest = urllib.request.Request(f"https://127.0.0.1:{server.management_port}/api/overview", headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(guest, timeout=5, context=trust)
    refused.value.close()
    assert refused.value.code == 401


def listening_ports(pid: int) -> set[tuple[str, int]]:
    """The addresses on which a process listens, by /proc."""
    inodes = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, port = fields[1].split(":")
                loopback = address == "0100007F" or address.endswith("0000000001000000")
                found.add(("loopback" if loopback else "open", int(port, 16)))
    return found


def test_rabbitmq_opens_no_port_beyond_loopback_for_its_cluster(configured_rabbitmq: RabbitMq) -> None:
    server = configured_rabbitmq
    assert not [port for place, port in listening_ports(server.pid) if place == "open"]
    assert {("loopback", server.port), ("loopback", server.management_port)} < listening_ports(server.pid)


def test_rabbitmq_bears_its_probe_without_complaint(configured_rabbitmq: RabbitMq) -> None:
    server = configured_rabbitmq
    before = len(server.log_text())
    for _ in range(5):
        socket.create_connection((server.host, server.port), timeout=2).close()
    assert "[error]" not in server.log_text()[before:]


async def test_rabbitmq_keeps_confirmed_messages_over_a_kill(configured_rabbitmq: RabbitMq) -> None:
    server = configured_rabbitmq
    trust = ssl.create_default_context(cafile=str(server.ca))

    async def connect() -> aio_pika.abc.AbstractConnection:
        return await aio_pika.connect(
            host=server.host, port=server.port, login="admin", password=server.password, ssl=True, ssl_context=trust, timeout=10
        )

    kinds = {"classic": {"x-queue-type": "classic"}, "quorum": {"x-queue-type": "quorum"}}
    async with await connect() as connection:
        channel = await connection.channel()
        for name, arguments in kinds.items():
            await channel.declare_queue(name, durable=True, arguments=dict(arguments))
    server.restart()  # 3.10 forgets a quorum queue that is killed within seconds of its declaration
    async with await connect() as connection:
        channel = await connection.channel(publisher_confirms=True)
        for name in kinds:
            for number in range(20):
                message = aio_pika.Message(str(number).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, name)
    server.kill()
    server.start()
    async with await connect() as connection:
        channel = await connection.channel()
        for name, arguments in kinds.items():
            queue = await channel.declare_queue(name, durable=True, arguments=dict(arguments))
            received = [(await queue.get(timeout=10, no_ack=True)).body for _ in range(20)]
            assert received == [str(number).encode() for number in range(20)]
