"""Redis' configuration and access list exactly as the component renders them, on the real server."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Generator

import pytest

from components import redis, stateful
from components.redis import RedisClient
from tests.app.configs.places import moved, started
from tests.app.pki import Authority
from tests.app.servers import Redis as RedisServer

ORDERS = RedisClient("orders", keys=("orders:*",), channels=("orders:*",))
BILLING = RedisClient("billing", keys=("billing:*",))
PASSWORDS = {"orders": "orders-password-0123456789", "billing": "billing-password-0123456789"}


@pytest.fixture(scope="module")
def server() -> Generator[RedisServer]:
    made = RedisServer(Authority(), acl=redis.access_list((ORDERS, BILLING), PASSWORDS))
    places = {
        stateful.TLS: made.folder / "tls",
        stateful.CA: made.folder / "ca",
        f"tls-port {redis.PORT}": f"bind 127.0.0.1\ntls-port {made.port}",
        redis.CONFIG: made.folder,
        f"dir {redis.DATA}": f"dir {made.data}",
    }
    (made.folder / "redis.conf").write_text(moved(redis.server_config(128), places))
    with started(made):
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
    assert ask(server, "orders", PASSWORDS["orders"], "SET", "orders:1", "x") == "OK"
    assert ask(server, "orders", PASSWORDS["orders"], "PUBLISH", "orders:placed", "1") == "0"


@pytest.mark.parametrize("command", ["GET billing:1", "PUBLISH billing:paid 1", "EVAL return(redis.call('GET','billing:1')) 1 billing:1"])
def test_a_client_does_not_reach_another_one_s(server: RedisServer, command: str) -> None:
    assert ask(server, "orders", PASSWORDS["orders"], *command.split()).startswith("NOPERM")


@pytest.mark.parametrize("command", ["CONFIG GET *", "KEYS *", "FLUSHALL", "ACL LIST", "SHUTDOWN", "REPLICAOF NO ONE"])
def test_a_client_may_not_administer(server: RedisServer, command: str) -> None:
    assert ask(server, "orders", PASSWORDS["orders"], *command.split()).startswith("NOPERM")


@pytest.mark.parametrize("command", ["GET orders:1", "INFO", "ACL WHOAMI"])
def test_the_probe_may_ping_and_nothing_else(server: RedisServer, command: str) -> None:
    assert ask(server, "probe", "probe", "PING") == "PONG"
    assert ask(server, "probe", "probe", *command.split()).startswith("NOPERM")


@pytest.mark.parametrize(("user", "password"), [("orders", "password"), ("default", "password"), ("billing", PASSWORDS["orders"])])
def test_a_wrong_password_is_refused(server: RedisServer, user: str, password: str) -> None:
    assert "WRONGPASS" in ask(server, user, password, "PING")


def test_nobody_gets_in_without_a_name(server: RedisServer) -> None:
    assert ask(server, None, None, "GET", "orders:1").startswith("NOAUTH")


def test_plaintext_is_refused_even_with_the_right_password(server: RedisServer) -> None:
    assert ask(server, "orders", PASSWORDS["orders"], "PING") == "PONG"
    assert "PONG" not in ask(server, "orders", PASSWORDS["orders"], "PING", tls=False)


def test_protected_mode_does_not_shut_clients_out(server: RedisServer) -> None:
    # Redis refuses other machines while the default user is open: it must be known as closed.
    default = ask(server, server.username, server.password, "ACL", "GETUSER", "default").splitlines()
    assert "off" in default
    assert "nopass" not in default


def test_no_password_stands_in_the_files(server: RedisServer) -> None:
    files = (server.folder / "redis.conf").read_text() + redis.access_list((ORDERS, BILLING), PASSWORDS)
    assert not [password for password in PASSWORDS.values() if password in files]


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


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it became true within ten seconds."""
    deadline = time.monotonic() + 10
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
