"""Redis' configuration and access list exactly as the component renders them, on the real server."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Generator

import pytest

from components import redis
from components.lib import stateful
from components.lib.redis_rules import redis_rules
from tests.app.configs.places import moved, started
from tests.app.pki import Authority
from tests.app.servers import Redis as RedisServer

PASSWORDS = {"orders.1": "orders-password-0123456789", "billing.1": "billing-password-0123456789"}
RULES = {name: redis_rules([f"{name.partition('.')[0]}:*"], [f"{name.partition('.')[0]}:*"]) for name in PASSWORDS}


class ConfiguredRedis(RedisServer):
    """A server on the rendered files, whose access list is prepared before each start as the pod's init container does it."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority)
        self.list = self.data / "users.acl"
        self.base = self.folder / "base"
        places = {
            stateful.TLS: self.folder / "tls",
            stateful.CA: self.folder / "ca",
            f"tls-port {redis.PORT}": f"bind 127.0.0.1\ntls-port {self.port}",
            f"aclfile {redis.ACCESS_LIST}": f"aclfile {self.list}",
            f"dir {redis.DATA}": f"dir {self.data}",
        }
        (self.folder / "redis.conf").write_text(moved(redis.server_config(128), places))

    def spawn(self) -> None:
        self.owned(self.base)
        (self.base / redis.BASE_FILE).write_text(redis.base_access_list(self.password))
        self.owned(self.data)
        self.prepare_access_list()
        super().spawn()

    def prepare_access_list(self) -> None:
        """Runs the init container's command as the server's user."""
        self.run(["sh", "-c", moved(redis.prepare_access_list(), {redis.BASE_DIR: self.base, redis.ACCESS_LIST: self.list})])


@pytest.fixture(scope="module")
def server() -> Generator[ConfiguredRedis]:
    made = ConfiguredRedis(Authority())
    with started(made):
        for name, password in PASSWORDS.items():
            assert ask(made, made.username, made.password, "ACL", "SETUSER", name, "reset", "on", f">{password}", *RULES[name]) == "OK"
        assert ask(made, made.username, made.password, "ACL", "SAVE") == "OK"
        yield made


def ask(server: RedisServer, user: str | None, password: str | None, *command: str, tls: bool = True) -> str:
    """The answer to one command by redis-cli, which the image has too; an error is an answer that begins with its kind."""
    encryption = ["--tls", "--cacert", str(server.ca)] if tls else []
    identity = [] if user is None else ["--user", user]
    done = subprocess.run(
        ["redis-cli", "-h", server.host, "-p", str(server.port), *encryption, "--no-auth-warning", *identity, *command],
        env={"PATH": os.environ["PATH"], **({} if password is None else {"REDISCLI_AUTH": password})},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return (done.stdout + done.stderr).strip()


def test_a_client_has_its_own_keys_and_channels(server: RedisServer) -> None:
    assert ask(server, "orders.1", PASSWORDS["orders.1"], "SET", "orders:1", "x") == "OK"
    assert ask(server, "orders.1", PASSWORDS["orders.1"], "PUBLISH", "orders:placed", "1") == "0"


@pytest.mark.parametrize("command", ["GET billing:1", "PUBLISH billing:paid 1", "EVAL return(redis.call('GET','billing:1')) 1 billing:1"])
def test_a_client_does_not_reach_another_one_s(server: RedisServer, command: str) -> None:
    assert ask(server, "orders.1", PASSWORDS["orders.1"], *command.split()).startswith("NOPERM")


@pytest.mark.parametrize("command", ["CONFIG GET *", "KEYS *", "FLUSHALL", "ACL LIST", "SHUTDOWN", "REPLICAOF NO ONE"])
def test_a_client_may_not_administer(server: RedisServer, command: str) -> None:
    assert ask(server, "orders.1", PASSWORDS["orders.1"], *command.split()).startswith("NOPERM")


@pytest.mark.parametrize("command", ["GET orders:1", "INFO", "ACL WHOAMI"])
def test_the_probe_may_ping_and_nothing_else(server: RedisServer, command: str) -> None:
    assert ask(server, "probe", "probe", "PING") == "PONG"
    assert ask(server, "probe", "probe", *command.split()).startswith("NOPERM")


@pytest.mark.parametrize(("user", "password"), [("orders.1", "password"), ("default", "password"), ("billing.1", PASSWORDS["orders.1"])])
def test_a_wrong_password_is_refused(server: RedisServer, user: str, password: str) -> None:
    assert "WRONGPASS" in ask(server, user, password, "PING")


def test_nobody_gets_in_without_a_name(server: RedisServer) -> None:
    assert ask(server, None, None, "GET", "orders:1").startswith("NOAUTH")


def test_plaintext_is_refused_even_with_the_right_password(server: RedisServer) -> None:
    assert ask(server, "orders.1", PASSWORDS["orders.1"], "PING") == "PONG"
    assert "PONG" not in ask(server, "orders.1", PASSWORDS["orders.1"], "PING", tls=False)


def test_protected_mode_does_not_shut_clients_out(server: RedisServer) -> None:
    # Redis refuses other machines while the default user is open: it must be known as closed.
    default = ask(server, server.username, server.password, "ACL", "GETUSER", "default").splitlines()
    assert "off" in default
    assert "nopass" not in default


def test_no_password_stands_in_the_files(server: RedisServer) -> None:
    files = "".join(file.read_text() for file in (server.folder / "redis.conf", server.data / "users.acl", server.folder / "base" / redis.BASE_FILE))
    assert not [password for password in (server.password, *PASSWORDS.values()) if password in files]


def probe(server: RedisServer, command: str = redis.PROBE) -> int:
    """The exit code of a probe's command, run as the kubelet would run it."""
    here = moved(command, {stateful.CA: server.folder / "ca", f"-p {redis.PORT}": f"-p {server.port}"})
    return subprocess.run(["sh", "-c", here], check=False, timeout=10, capture_output=True).returncode


def test_it_is_ready_when_it_answers_and_not_while_it_loads(server: RedisServer) -> None:
    assert probe(server) == 0
    filled = "for i = 1, 40000 do redis.call('SET', 'orders:' .. i, i) end"
    ask(server, server.username, server.password, "EVAL", filled, "0")
    config = server.folder / "redis.conf"
    as_rendered = config.read_text()
    server.stop()
    config.write_text(as_rendered + "key-load-delay 200\nloading-process-events-interval-bytes 1024\n")  # microseconds for each key
    server.spawn()
    assert eventually(lambda: "LOADING" in ask(server, "probe", "probe", "PING"))
    assert probe(server) != 0
    assert probe(server, redis.ALIVE) == 0
    server.kill()
    assert probe(server, redis.ALIVE) != 0
    config.write_text(as_rendered)
    server.start()
    assert probe(server) == 0


def test_the_probes_leave_no_line_in_the_log(server: RedisServer) -> None:
    before = server.log_text()
    assert probe(server) == 0
    assert probe(server, redis.ALIVE) == 0
    assert server.log_text() == before


def users(server: ConfiguredRedis) -> set[str]:
    """The names in the access list's file."""
    return {line.split()[1] for line in server.list.read_text().splitlines()}


def test_the_first_start_has_the_base_alone_and_a_restart_keeps_what_was_added() -> None:
    server = ConfiguredRedis(Authority())
    with started(server):
        assert users(server) == {"default", "admin", "probe"}
        added = ask(server, "admin", server.password, "ACL", "SETUSER", "orders.1", "on", ">orders-password-0123456789", "~orders:*", "+get", "+ping")
        assert (added, ask(server, "admin", server.password, "ACL", "SAVE")) == ("OK", "OK")
        server.restart()
        assert users(server) == {"default", "admin", "probe", "orders.1"}
        assert ask(server, "orders.1", "orders-password-0123456789", "PING") == "PONG"
        server.kill()
        server.start()
        assert ask(server, "orders.1", "orders-password-0123456789", "GET", "orders:1") == ""


def test_an_administrator_with_another_password_replaces_the_one_before_and_no_client() -> None:
    server = ConfiguredRedis(Authority())
    with started(server):
        before = server.password
        ask(server, "admin", before, "ACL", "SETUSER", "administrator-s-friend.1", "on", ">friends-password-0123456789", "+ping")
        assert ask(server, "admin", before, "ACL", "SAVE") == "OK"
        server.stop()
        server.password = "another-password-0123456789"
        server.start()
        assert ask(server, "admin", "another-password-0123456789", "ACL", "WHOAMI") == "admin"
        assert "WRONGPASS" in ask(server, "admin", before, "PING")
        assert ask(server, "administrator-s-friend.1", "friends-password-0123456789", "PING") == "PONG"


def test_a_base_that_somebody_has_opened_is_closed_by_the_next_start() -> None:
    server = ConfiguredRedis(Authority())
    with started(server):
        for name in ("default", "probe"):
            assert ask(server, "admin", server.password, "ACL", "SETUSER", name, "on", "nopass", "allkeys", "+@all") == "OK"
        assert ask(server, "admin", server.password, "ACL", "SAVE") == "OK"
        server.restart()
        assert ask(server, None, None, "GET", "orders:1").startswith("NOAUTH")
        assert ask(server, "probe", "probe", "GET", "orders:1").startswith("NOPERM")


def test_preparing_twice_changes_nothing() -> None:
    server = ConfiguredRedis(Authority())
    with started(server):
        ask(server, "admin", server.password, "ACL", "SETUSER", "orders.1", "on", ">orders-password-0123456789")
        ask(server, "admin", server.password, "ACL", "SAVE")
        server.stop()
        server.prepare_access_list()
        once = server.list.read_text()
        server.prepare_access_list()
        assert server.list.read_text() == once
        assert [file.name for file in server.data.iterdir() if file.name.endswith(".new")] == []


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it became true within ten seconds."""
    deadline = time.monotonic() + 10
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
