"""RabbitMQ's configuration exactly as the component renders it, on the real server."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Generator, Mapping
from pathlib import Path

import aio_pika
import pytest
from aiormq.exceptions import AMQPError

from components import rabbitmq
from components.lib import stateful
from components.lib.contracts import Placement
from tests.app.configs.places import moved, started
from tests.app.pki import Authority
from tests.app.servers import RabbitMq

HOSTNAME = "rabbitmq-0"
AT = Placement(stack="dev", namespace="groundwork-dev")
FULL_NAME = "rabbitmq-0.rabbitmq-headless.groundwork-dev.svc.cluster.local"


class ConfiguredRabbitMq(RabbitMq):
    """A server on the rendered files and variables, prepared before each start as the pod's init container does it.

    The pod's name is known to Erlang's resolver alone, and the node's own port is bound to loopback: this is no pod.
    """

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority, plugins=rabbitmq.PLUGINS)
        places = {
            stateful.TLS: self.folder / "tls",
            stateful.CA: self.folder / "ca",
            f"listeners.ssl.default = {rabbitmq.PORT}": f"listeners.ssl.default = 127.0.0.1:{self.port}",
            f"management.ssl.port = {rabbitmq.MANAGEMENT_PORT}": f"management.ssl.port = {self.management_port}\nmanagement.ssl.ip = 127.0.0.1",
        }
        (self.folder / "rabbitmq.conf").write_text(moved(rabbitmq.server_config(512, 1), places))
        (self.folder / "conf.d").mkdir()
        (self.folder / "conf.d" / "50-admin.conf").write_text(rabbitmq.admin_config(self.password))
        (self.folder / "cookie").mkdir()
        (self.folder / "cookie" / "cookie").write_text("a-cookie-of-a-test-0123456789")
        (self.folder / "inetrc").write_text(f'{{host, {{127,0,0,1}}, ["{FULL_NAME}", "{HOSTNAME}"]}}.\n{{lookup, [file, native]}}.\n')
        self.started_as_of_old = False

    def environment(self) -> Mapping[str, str]:
        here = super().environment()
        if self.started_as_of_old:
            return here
        places = {
            rabbitmq.DATA: self.data,
            rabbitmq.CONFIG: self.folder,
            rabbitmq.ADMIN_DIR: self.folder / "conf.d",
            rabbitmq.LOGS: self.data / "log",
        }
        rendered = {name: self._moved(value, places) for name, value in rabbitmq.environment().items()}
        kept = ("ERL_EPMD_ADDRESS", "ERL_EPMD_PORT", "RABBITMQ_DIST_PORT", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RUNNING_UNDER_SYSTEMD")
        return {"HOSTNAME": HOSTNAME, "ERL_INETRC": str(self.folder / "inetrc"), **{name: here[name] for name in kept}, **rendered}

    @staticmethod
    def _moved(value: str, places: Mapping[str, Path]) -> str:
        for place, path in sorted(places.items(), key=lambda item: -len(item[0])):
            value = value.replace(place, str(path))
        return value

    def spawn(self) -> None:
        self.owned(self.data)
        if not self.started_as_of_old:
            script = moved(rabbitmq.prepare_node("rabbitmq", AT), {rabbitmq.COOKIE_DIR: self.folder / "cookie", rabbitmq.DATA: self.data})
            self.run(["sh", "-c", script])
        super().spawn()

    @property
    def dist_port(self) -> int:
        """Where other nodes of a cluster would call."""
        return self._dist_port

    def node(self) -> str:
        """What the running node says that it is called."""
        return str(json.loads(ask(self, "overview"))["node"])


def ask(server: RabbitMq, path: str, *, method: str = "GET", body: bytes | None = None) -> bytes:
    """An answer of the management API to the administrator."""
    trust = ssl.create_default_context(cafile=str(server.ca))
    identity = b64encode(f"admin:{server.password}".encode()).decode()
    headers = {"Authorization": f"Basic {identity}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"https://127.0.0.1:{server.management_port}/api/{path}", headers=headers, method=method, data=body)
    with urllib.request.urlopen(request, timeout=60, context=trust) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def configured_rabbitmq() -> Generator[ConfiguredRabbitMq]:
    server = ConfiguredRabbitMq(Authority())
    with started(server):
        yield server


def test_a_node_on_a_new_volume_has_the_name_by_which_other_nodes_would_find_it(configured_rabbitmq: ConfiguredRabbitMq) -> None:
    assert (configured_rabbitmq.data / "node.env").read_text() == f"NODENAME=rabbit@{FULL_NAME}\nUSE_LONGNAME=true\n"
    assert configured_rabbitmq.node() == f"rabbit@{FULL_NAME}"


def test_it_has_the_cookie_of_the_cluster_and_nobody_else_reads_it(configured_rabbitmq: ConfiguredRabbitMq) -> None:
    cookie = configured_rabbitmq.data / ".erlang.cookie"
    assert cookie.read_text() == "a-cookie-of-a-test-0123456789"
    assert cookie.stat().st_mode & 0o077 == 0


def test_a_node_on_an_old_volume_keeps_its_name_and_with_it_what_it_knows() -> None:
    server = ConfiguredRabbitMq(Authority())
    server.started_as_of_old = True
    (server.folder / "rabbitmq.conf").write_text((server.folder / "rabbitmq.conf").read_text() + rabbitmq.admin_config(server.password))
    with started(server):
        assert server.node() == "rabbit@localhost"
        ask(server, "vhosts/orders", method="PUT", body=b"{}")
        server.stop()
        server.started_as_of_old = False
        server.start()
        assert (server.data / "node.env").read_text() == "NODENAME=rabbit@localhost\nUSE_LONGNAME=false\n"
        assert server.node() == "rabbit@localhost"
        assert {vhost["name"] for vhost in json.loads(ask(server, "vhosts"))} == {"/", "orders"}


def test_a_node_keeps_its_name_over_a_restart_of_its_pod() -> None:
    server = ConfiguredRabbitMq(Authority())
    with started(server):
        ask(server, "vhosts/orders", method="PUT", body=b"{}")
        server.kill()
        server.start()
        assert server.node() == f"rabbit@{FULL_NAME}"
        assert {vhost["name"] for vhost in json.loads(ask(server, "vhosts"))} == {"/", "orders"}


async def amqp(server: RabbitMq, password: str, *, tls: bool = True) -> None:
    trust = ssl.create_default_context(cafile=str(server.ca)) if tls else None
    connection = await aio_pika.connect(host=server.host, port=server.port, login="admin", password=password, ssl=tls, ssl_context=trust, timeout=60)
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
        urllib.request.urlopen(f"http://127.0.0.1:{server.management_port}/api/overview", timeout=60)
    trust = ssl.create_default_context(cafile=str(server.ca))
    guest = urllib.request.Request(f"https://127.0.0.1:{server.management_port}/api/overview", headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(guest, timeout=60, context=trust)
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


def test_rabbitmq_opens_no_port_but_its_two_and_the_one_for_other_nodes(configured_rabbitmq: ConfiguredRabbitMq) -> None:
    server = configured_rabbitmq
    assert {port for _, port in listening_ports(server.pid)} == {server.port, server.management_port, server.dist_port}


def test_rabbitmq_bears_its_probe_without_complaint(configured_rabbitmq: RabbitMq) -> None:
    server = configured_rabbitmq
    before = len(server.log_text())
    for _ in range(5):
        socket.create_connection((server.host, server.port), timeout=60).close()
    assert "[error]" not in server.log_text()[before:]


async def test_rabbitmq_keeps_confirmed_messages_over_a_kill(configured_rabbitmq: RabbitMq) -> None:
    server = configured_rabbitmq
    trust = ssl.create_default_context(cafile=str(server.ca))

    async def connect() -> aio_pika.abc.AbstractConnection:
        return await aio_pika.connect(
            host=server.host, port=server.port, login="admin", password=server.password, ssl=True, ssl_context=trust, timeout=60
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
            received = [(await queue.get(timeout=60, no_ack=True)).body for _ in range(20)]
            assert received == [str(number).encode() for number in range(20)]
