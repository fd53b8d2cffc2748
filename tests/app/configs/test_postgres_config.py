"""PostgreSQL's configuration exactly as the component renders it, on the real server."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Generator

import asyncpg
import pytest

from components import postgres
from components.lib import stateful
from tests.app import servers
from tests.app.configs.places import moved, started
from tests.app.pki import Authority
from tests.app.servers import Postgres


@pytest.fixture(scope="module")
def configured_postgres() -> Generator[Postgres]:
    server = Postgres(Authority(), hba=postgres.HBA)
    places = {
        stateful.TLS: server.folder / "tls",
        f"port = {postgres.PORT}": f"port = {server.port}",
        postgres.SOCKETS: server.folder / "socket",
        postgres.CONFIG: server.folder,
        "listen_addresses = '*'": "listen_addresses = '127.0.0.1'",
    }
    text = moved(postgres.server_config(256, 150), places)
    (server.folder / "postgresql.conf").write_text(text)
    with started(server):
        yield server


async def test_postgres_takes_the_right_password_over_tls(configured_postgres: Postgres) -> None:
    server = configured_postgres
    trust = ssl.create_default_context(cafile=str(server.ca))
    connection = await asyncpg.connect(host=server.host, port=server.port, user="postgres", password=server.password, ssl=trust, timeout=60)
    assert await connection.fetchval("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "TLSv1.3"
    assert await connection.fetchval("SHOW shared_buffers") == "64MB"
    assert await connection.fetchval("SHOW max_connections") == "150"
    assert await connection.fetchval("SHOW ssl_min_protocol_version") == "TLSv1.2"
    await connection.close()


async def test_postgres_refuses_a_wrong_password(configured_postgres: Postgres) -> None:
    server = configured_postgres
    trust = ssl.create_default_context(cafile=str(server.ca))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host=server.host, port=server.port, user="postgres", password="password", ssl=trust, timeout=60)


@pytest.mark.parametrize("user", ["postgres", "nobody-there"])
async def test_postgres_refuses_plaintext_even_with_the_right_password(configured_postgres: Postgres, user: str) -> None:
    server = configured_postgres
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
        await asyncpg.connect(host=server.host, port=server.port, user=user, password=server.password, ssl=False, timeout=60)


async def test_postgres_wants_the_password_on_its_socket_too(configured_postgres: Postgres) -> None:
    server = configured_postgres
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host=str(server.folder / "socket"), port=server.port, user="postgres", password="password", timeout=60)


def test_postgres_answers_its_probe_and_does_not_log_it(configured_postgres: Postgres) -> None:
    server = configured_postgres
    command = [str(server.port) if word == str(postgres.PORT) else word for word in postgres.PROBE]
    command[0] = str(servers.postgres_program("pg_isready"))
    before = server.log_text()
    done = subprocess.run(command, check=False, timeout=60)
    assert done.returncode == 0
    assert server.log_text() == before
