"""Consul's configuration exactly as the component renders it, on real servers: one, and three that find each other."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from components import consul
from components.lib import stateful
from tests.app.configs.places import moved
from tests.app.pki import Authority
from tests.app.processes import free_port
from tests.app.servers import Consul

MANAGEMENT = consul.token("management secret of a test")
AGENT = consul.token("agent secret of a test")
GOSSIP = consul.gossip_key("gossip secret of a test")


class ConfiguredConsul(Consul):
    """A server on the rendered files. `host` is its pod's address, which changes when the pod comes back; the ports stay.

    Servers of one cluster share their ports, as pods do.
    """

    def __init__(
        self, authority: Authority, *, host: str, servers: int = 1, peers: Sequence[str] = (), ports: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__(authority, host=host)
        self.password = MANAGEMENT
        self.port, self.rpc_port, self.serf_port = ports or (self.port, self.rpc_port, self.serf_port)
        self.servers = servers
        self.peers = peers

    def command(self) -> Sequence[str]:
        places: dict[str, object] = {
            stateful.TLS: self.folder / "tls",
            stateful.CA: self.folder / "ca",
            f'"data_dir": "{consul.DATA}"': f'"data_dir": "{self.data}"',
            '"client_addr": "0.0.0.0"': f'"client_addr": "{self.host}"',
            f'"https": {consul.PORT}': f'"https": {self.port}',
            f'"server": {consul.RPC_PORT}': f'"server": {self.rpc_port}',
            f'"serf_lan": {consul.SERF_PORT}': f'"serf_lan": {self.serf_port}',
        }
        if self.servers > 1:
            places['"consul-headless.platform.svc.cluster.local"'] = ", ".join(f'"{peer}"' for peer in self.peers)
        (self.folder / "server.json").write_text(moved(consul.server_config("consul", self.servers, "platform", "cluster.local"), places))
        (self.folder / "secrets.json").write_text(consul.secret_config(MANAGEMENT, AGENT, GOSSIP))
        (self.folder / "token").write_text(MANAGEMENT)
        return [
            str(self.program),
            "agent",
            f"-config-file={self.folder / 'server.json'}",
            f"-config-file={self.folder / 'secrets.json'}",
            f"-bind={self.host}",
            f"-node={self.folder.name}",
        ]

    def ask(self, path: str, *, method: str = "GET", token: str | None = MANAGEMENT, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 where nobody answers."""
        context = ssl.create_default_context(cafile=str(self.ca))
        headers = {} if token is None else {"X-Consul-Token": token}
        request = urllib.request.Request(f"{self.address}{path}", method=method, headers=headers, data=body)
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def is_ready(self, name: str | None = None) -> bool:
        """What the readiness probe asks, by a shell as the kubelet does it, of the node `name`, which is the server itself."""
        places = {
            f"127.0.0.1:{consul.PORT}": f"{self.host}:{self.port}",
            stateful.CA: self.folder / "ca",
            f"{consul.SECRETS}/token": self.folder / "token",
            "consul operator": f"{self.program} operator",
        }
        environment = {"PATH": os.environ["PATH"], "HOSTNAME": name or self.folder.name}
        command = ["sh", "-c", moved(consul.VOTES, places)]
        return subprocess.run(command, env=environment, check=False, timeout=60, capture_output=True).returncode == 0

    def keeps(self, key: str) -> bool:
        """Whether the key is there."""
        return self.ask(f"/v1/kv/{key}")[0] == 200

    def voters(self) -> set[str]:
        """The addresses of the servers whose vote counts."""
        status, body = self.ask("/v1/operator/raft/configuration")
        return {server["Address"].rpartition(":")[0] for server in json.loads(body)["Servers"] if server["Voter"]} if status == 200 else set()


def eventually(true: Callable[[], bool], seconds: float = 90) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def closing(*servers: ConfiguredConsul) -> Generator[None]:
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
        yield


@pytest.fixture(scope="module")
def server() -> Generator[ConfiguredConsul]:
    made = ConfiguredConsul(Authority(), host="127.0.0.1")
    with closing(made):
        made.start()
        yield made


def test_the_management_token_works_from_the_first_moment(server: ConfiguredConsul) -> None:
    assert server.ask("/v1/acl/tokens")[0] == 200


@pytest.mark.parametrize("token", [None, consul.token("a wrong one")])
def test_nothing_is_told_without_a_valid_token(server: ConfiguredConsul, token: str | None) -> None:
    assert server.ask("/v1/kv/config/a", token=token)[0] == 403
    assert server.ask("/v1/kv/config/a", method="PUT", body=b"1", token=token)[0] == 403
    assert server.ask("/v1/acl/tokens", token=token)[0] == 403


def test_plaintext_is_refused(server: ConfiguredConsul) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{server.host}:{server.port}/v1/status/leader", timeout=60)
    refused.value.close()
    assert refused.value.code == 400


def test_only_the_api_and_what_servers_need_is_open(server: ConfiguredConsul) -> None:
    inodes = {link.readlink().name for link in Path(f"/proc/{server.pid}/fd").iterdir() if link.is_symlink()}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {int(fields[1].split(":")[1], 16) for fields in lines if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes}
    assert ports == {server.port, server.rpc_port, server.serf_port}


def test_no_secret_reaches_the_log(server: ConfiguredConsul) -> None:
    assert not [secret for secret in (MANAGEMENT, AGENT, GOSSIP) if secret in server.log_text()]


def test_a_server_that_votes_is_ready(server: ConfiguredConsul) -> None:
    assert server.is_ready()


@pytest.mark.parametrize("name", ["somebody-else", "groundwork"])
def test_a_server_that_is_no_member_is_not_ready(server: ConfiguredConsul, name: str) -> None:
    assert not server.is_ready(name)


def test_a_server_is_not_ready_before_the_cluster_has_begun() -> None:
    lonely = ConfiguredConsul(Authority(), host="127.0.0.2", servers=3, peers=["127.0.0.2:1"])
    with closing(lonely):
        lonely.spawn()
        assert eventually(lambda: lonely.ask("/v1/status/leader", token=None)[0] != 0)
        assert not lonely.is_ready()


def test_a_question_with_a_wrong_token_is_no_vote(server: ConfiguredConsul) -> None:
    (server.folder / "token").write_text(consul.token("a wrong one"))
    try:
        assert not server.is_ready()
    finally:
        (server.folder / "token").write_text(MANAGEMENT)


def test_one_server_comes_back_with_its_data_at_another_address() -> None:
    server = ConfiguredConsul(Authority(), host="127.0.0.2")
    with closing(server):
        server.start()
        assert server.ask("/v1/kv/config/kept", method="PUT", body=b"1")[0] == 200
        for end, host in ((server.kill, "127.0.0.3"), (server.stop, "127.0.0.4"), (server.kill, "127.0.0.2")):
            end()
            server.host = host
            server.start()
            assert server.is_ready()
            assert server.keeps("config/kept")
            assert server.ask("/v1/kv/config/more", method="PUT", body=host.encode())[0] == 200
            assert eventually(lambda host=host: server.voters() == {host})


def test_three_servers_survive_the_loss_of_one_and_take_it_back_at_another_address() -> None:
    authority, hosts = Authority(), ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    ports = (free_port(), free_port(), free_port())
    peers = [f"{host}:{ports[2]}" for host in (*hosts, "127.0.0.1")]
    servers = [ConfiguredConsul(authority, host=host, servers=3, peers=peers, ports=ports) for host in hosts]
    with closing(*servers):
        for server in servers:
            server.spawn()
        assert eventually(lambda: all(server.ready() for server in servers))
        assert all(server.is_ready() for server in servers)
        assert servers[0].ask("/v1/kv/config/kept", method="PUT", body=b"1")[0] == 200

        lost = next(server for server in servers if b'"leader":"true"' in server.ask("/v1/agent/self")[1])
        others = [server for server in servers if server is not lost]
        lost.kill()
        assert eventually(lambda: others[0].ask("/v1/kv/config/while-away", method="PUT", body=b"1")[0] == 200)
        assert eventually(others[0].is_ready)

        lost.host = "127.0.0.1"  # a pod that comes back has a new address
        lost.spawn()
        assert eventually(lost.is_ready)
        assert eventually(lambda: lost.keeps("config/while-away"))
        assert eventually(lambda: others[0].voters() == {server.host for server in servers})

        others[0].kill()  # two of three again: the one that came back counts
        assert eventually(lambda: lost.ask("/v1/kv/config/again", method="PUT", body=b"1")[0] == 200)
        assert lost.keeps("config/kept")

        others[1].kill()
        assert eventually(lambda: not lost.is_ready())
