"""How a service reaches its engines: whom it trusts, who it says it is, and how long it waits."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import uuid4

import aio_pika
import pytest
import redis.exceptions
from redis.asyncio import Redis

from demo.document_service.cache import Cache
from demo.document_service.models import Document
from groundwork.engines import ENGINES, runtime
from groundwork.engines.postgres import Pool, postgres_connection, postgres_pool
from groundwork.engines.rabbitmq import amqp_connection
from groundwork.engines.redis import RedisCheck, redis_client
from groundwork.settings import PostgresSettings, RabbitmqSettings, RedisSettings, ServerSection
from tests.app import servers
from tests.app.pki import Authority
from tests.app.processes import Server

NAMES = tuple(name for name, kind in ENGINES.items() if issubclass(kind.section, ServerSection))
Ask = Callable[[], Awaitable[object]]


@dataclass
class Reached:
    """A running server and where the service finds it, its CA and its credentials, in files of the service's own."""

    name: str
    server: Server
    section: ServerSection
    signed_by: Authority

    def trust(self, *authorities: Authority) -> None:
        """From now on the service's CA file holds these."""
        assert self.section.ca is not None
        self.section.ca.write_text("".join(authority.certificate for authority in authorities))

    def certify(self, authority: Authority) -> None:
        """The server starts again with a certificate of this authority."""
        authority.issue(self.name).write(self.server.folder / "tls")
        self.server.owned(self.server.folder / "tls")
        self.server.restart()
        self.signed_by = authority

    def log_in_as(self, username: str, password: str) -> None:
        """From now on the service's credentials are these."""
        assert self.section.credentials is not None
        (self.section.credentials / "username").write_text(username)
        (self.section.credentials / "password").write_text(password)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Ask]:
        """Something that lives long and asks the server who is asking, over a connection it has or a new one."""
        match self.section:
            case PostgresSettings():
                async with postgres_pool(self.section) as pool:
                    yield lambda: pool.fetchval("SELECT current_user::text")
            case RedisSettings():
                async with redis_client(self.section) as client:
                    yield client.acl_whoami  # pyright: ignore[reportUnknownMemberType] - half typed
            case RabbitmqSettings():
                section = self.section
                yield lambda: _amqp(section)
            case _:
                raise AssertionError(self.section)


async def _amqp(section: RabbitmqSettings) -> object:
    async with await amqp_connection(section) as connection:
        await (await connection.channel()).declare_exchange("amq.direct", passive=True)
        assert isinstance(connection, aio_pika.Connection)
        return connection.url.user


@pytest.fixture(scope="module", params=NAMES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Reached]:
    name, authority = str(request.param), Authority()
    folder = tmp_path_factory.mktemp(name)
    with getattr(servers, name)(authority) as server:
        assert isinstance(server, Server)
        section: dict[str, object] = {"host": server.host, "port": server.port, "ca": folder / "ca.crt", "credentials": folder}
        if name == "postgres":
            section["database"] = "postgres"
        kind = ENGINES[name].section
        assert issubclass(kind, ServerSection)
        yield Reached(name, server, kind.model_validate(section), authority)


@pytest.fixture
def reached(running: Reached) -> Reached:
    """The server up, the service trusting it and logging in as the administrator."""
    if not running.server.running:
        running.server.start()
    running.trust(running.signed_by)
    running.log_in_as(running.server.username, running.server.password)
    return running


async def refuses_the_certificate(ask: Ask) -> None:
    with pytest.raises(Exception, match=r"(?i)certificate"):
        await ask()


async def eventually(ask: Ask) -> object:
    """The first answer: connections of before a restart may fail once each."""
    async with asyncio.timeout(60):
        while True:
            with suppress(*UNAVAILABLE):
                return await ask()
            await asyncio.sleep(0.05)


UNAVAILABLE = tuple(error for name in NAMES for error in runtime(name).UNAVAILABLE)


# Whom it trusts


async def test_one_of_several_authorities_in_the_file_is_enough(reached: Reached) -> None:
    old, new = Authority("old"), Authority("new")
    for signs in (old, new):
        reached.certify(signs)
        reached.trust(old, new)
        async with reached.client() as ask:
            assert await ask() == reached.server.username


async def test_a_new_authority_counts_for_the_next_connection_of_a_client_that_lives(reached: Reached) -> None:
    before, after = Authority("before"), Authority("after")
    reached.certify(before)
    reached.trust(before)
    async with reached.client() as ask:
        assert await ask() == reached.server.username
        reached.certify(after)
        with suppress(*UNAVAILABLE):
            await ask()  # the connection of before
        await refuses_the_certificate(ask)
        reached.trust(after)
        assert await eventually(ask) == reached.server.username
        reached.trust(before)
        await asyncio.to_thread(reached.server.restart)
        with suppress(*UNAVAILABLE):
            await ask()
        await refuses_the_certificate(ask)


async def test_an_authority_that_only_the_machine_trusts_is_refused(reached: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = Authority("a public authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(public.write(tmp_path)))
    assert ssl.create_default_context().get_ca_certs(), "the machine does not trust it: nothing is proven"
    reached.certify(public)
    reached.trust(Authority("ours"))
    async with reached.client() as ask:
        await refuses_the_certificate(ask)


# Who it says it is


async def add_user(reached: Reached, username: str, password: str) -> None:
    """An account beside the administrator's, with the same database or virtual host."""
    administrator = reached.section
    match administrator:
        case PostgresSettings():
            connection = await postgres_connection(administrator)
            await connection.execute(f"CREATE ROLE \"{username}\" LOGIN PASSWORD '{password}'")
            await connection.close()
        case RedisSettings():
            async with redis_client(administrator) as client:
                await client.execute_command("ACL", "SETUSER", username, "on", f">{password}", "+@all")  # pyright: ignore[reportUnknownMemberType]
        case _:
            assert isinstance(reached.server, servers.RabbitMq)
            await asyncio.to_thread(_put, reached.server, f"users/{username}", {"password": password, "tags": ""})
            await asyncio.to_thread(_put, reached.server, f"permissions/%2F/{username}", {"configure": "", "write": "", "read": ".*"})


def _put(server: servers.RabbitMq, path: str, body: dict[str, str]) -> None:
    login = b64encode(f"{server.username}:{server.password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"https://{server.host}:{server.management_port}/api/{path}", json.dumps(body).encode(), headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30, context=ssl._create_unverified_context()) as answer:  # pyright: ignore[reportPrivateUsage]
        assert answer.status in {201, 204}


async def test_the_name_is_what_the_file_says_at_the_time_of_the_next_connection(reached: Reached) -> None:
    first, second = f"orders.{uuid4().hex[:8]}", f"orders.{uuid4().hex[:8]}"
    await add_user(reached, first, "first-password")
    await add_user(reached, second, "second-password")
    reached.log_in_as(first, "first-password")
    async with reached.client() as ask:
        assert await ask() == first
        reached.log_in_as(second, "second-password")
        async with reached.client() as ask_anew:
            assert await ask_anew() == second


# How long it waits


async def test_what_a_client_raises_while_the_server_is_away_is_known_as_away(reached: Reached) -> None:
    async with reached.client() as ask:
        await ask()
        reached.server.kill()
        for _ in range(3):
            with pytest.raises(runtime(reached.name).UNAVAILABLE):
                await ask()
    async with reached.client() as ask:
        with pytest.raises(runtime(reached.name).UNAVAILABLE):
            await ask()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Generator[PostgresSettings]:
    folder = tmp_path_factory.mktemp("database")
    with servers.postgres() as server:
        (folder / "username").write_text(server.username)
        (folder / "password").write_text(server.password)
        yield PostgresSettings(host=server.host, port=server.port, ca=server.ca, credentials=folder, database="postgres", pool_size=2)


async def acquire(pool: Pool) -> object:
    async with pool.acquire() as connection:
        return connection


async def acquire_for_as_long_as_it_takes(pool: Pool) -> object:
    async with pool.acquire(timeout=None) as connection:
        return connection


WAYS: dict[str, Callable[[Pool], Awaitable[object]]] = {
    "acquire": acquire,
    "acquire without a deadline": acquire_for_as_long_as_it_takes,
    "await acquire": lambda pool: pool.acquire(),
    "execute": lambda pool: pool.execute("SELECT 1"),
    "executemany": lambda pool: pool.executemany("SELECT $1::int", [(1,)]),
    "fetch": lambda pool: pool.fetch("SELECT 1"),
    "fetchrow": lambda pool: pool.fetchrow("SELECT 1"),
    "fetchval": lambda pool: pool.fetchval("SELECT 1"),
    "copy": lambda pool: pool.copy_records_to_table("nothing", records=[(1,)]),
}


@pytest.mark.parametrize("way", WAYS)
async def test_nobody_waits_for_ever_for_a_connection_of_a_pool(database: PostgresSettings, way: str) -> None:
    async with asyncio.timeout(60), postgres_pool(database, acquire_timeout=0.1) as pool, pool.acquire(), pool.acquire():
        with pytest.raises(TimeoutError) as raised:
            await WAYS[way](pool)
        assert isinstance(raised.value, runtime("postgres").UNAVAILABLE)


async def test_a_pool_has_a_deadline_without_being_told_one(database: PostgresSettings) -> None:
    async with asyncio.timeout(60), postgres_pool(database, max_size=1) as pool, pool.acquire():
        with pytest.raises(TimeoutError):
            await pool.fetchval("SELECT 1")


async def test_who_waited_in_vain_takes_nothing_from_the_pool(database: PostgresSettings) -> None:
    async with asyncio.timeout(60), postgres_pool(database, acquire_timeout=0.05) as pool:
        for _ in range(5):
            async with pool.acquire(), pool.acquire():
                await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(10)), return_exceptions=True)
        assert await asyncio.gather(pool.fetchval("SELECT 1"), pool.fetchval("SELECT 2")) == [1, 2]


async def test_a_deadline_of_one_s_own_counts(database: PostgresSettings) -> None:
    async with asyncio.timeout(60), postgres_pool(database, acquire_timeout=3600) as pool, pool.acquire(), pool.acquire():
        with pytest.raises(TimeoutError):
            await pool.acquire(timeout=0.05)


async def test_a_pool_is_as_large_as_the_settings_say(database: PostgresSettings) -> None:
    async with postgres_pool(database) as pool:
        assert pool.get_max_size() == 2
    async with postgres_pool(database, max_size=1) as pool:
        assert pool.get_max_size() == 1


async def test_the_connection_of_a_pool_is_one_that_ends_its_calls(database: PostgresSettings) -> None:
    async with asyncio.timeout(60), postgres_pool(database, command_timeout=0.2) as pool:
        with pytest.raises(TimeoutError):
            await pool.execute("SELECT pg_sleep(3600)")
        assert await pool.fetchval("SELECT 1") == 1


@asynccontextmanager
async def mute(*, hangs: bool) -> AsyncGenerator[tuple[RedisSettings, list[None]]]:
    """A server that answers nothing: it hangs, or breaks each connection at the first line. The list grows with every connection."""
    connections: list[None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(None)
        with suppress(ConnectionError):
            while await reader.readline() and hangs:
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield RedisSettings(host="127.0.0.1", port=int(server.sockets[0].getsockname()[1])), connections


async def test_a_redis_that_hangs_is_not_asked_again_and_again() -> None:
    async with mute(hangs=True) as (section, connections), redis_client(section, timeout=0.2) as client:
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.get("a")
        assert len(connections) == 1


async def test_a_redis_that_breaks_every_connection_is_asked_twice() -> None:
    async with mute(hangs=False) as (section, connections), redis_client(section, timeout=20) as client:
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.get("a")
        assert len(connections) == 2


@pytest.mark.parametrize("running", ["redis"], indirect=True)
async def test_a_redis_that_was_restarted_fails_no_call(reached: Reached) -> None:
    assert isinstance(reached.section, RedisSettings)
    async with redis_client(reached.section, timeout=20) as client:
        await client.set("a", "1")
        await asyncio.to_thread(reached.server.restart)
        assert await client.get("a") == "1"


# What Redis allows


STRICT = "-@all +@connection +@read +@write +@pubsub +@scripting +@transaction -@dangerous -@admin -keys -scan -randomkey -dbsize -function -info"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[servers.Redis, RedisSettings]]:
    """A Redis whose client `orders.1` may not look beyond its keys."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "username").write_text("orders.1")
    (folder / "password").write_text("orders-password")
    with servers.redis(acl=f"user default off\nuser orders.1 on >orders-password resetchannels ~orders:* &orders:* {STRICT}") as server:
        yield server, RedisSettings(host=server.host, port=server.port, ca=server.ca, credentials=folder, key_prefix="orders:")


async def refused(server: servers.Redis) -> object:
    """What the server has refused since it was asked last."""
    client = Redis(host=server.host, port=server.port, username=server.username, password=server.password, ssl=True, ssl_ca_certs=str(server.ca))
    async with client:
        log = cast("object", await client.execute_command("ACL", "LOG"))  # pyright: ignore[reportUnknownMemberType]
        await client.execute_command("ACL", "LOG", "RESET")  # pyright: ignore[reportUnknownMemberType]
    return log


@pytest.mark.parametrize("command", ["KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "FUNCTION LIST", "INFO"])
async def test_the_strict_access_list_refuses_what_looks_beyond_one_s_keys(strict: tuple[servers.Redis, RedisSettings], command: str) -> None:
    server, section = strict
    async with redis_client(section) as client:
        with pytest.raises(redis.exceptions.NoPermissionError):
            await client.execute_command(*command.split())  # pyright: ignore[reportUnknownMemberType]
    assert await refused(server)


async def test_client_check_and_cache_need_nothing_that_the_strict_access_list_refuses(strict: tuple[servers.Redis, RedisSettings]) -> None:
    server, section = strict
    await refused(server)
    check = RedisCheck(section)
    await check.run()
    await check.run()
    await check.close()
    document = Document.model_validate({"id": uuid4(), "title": "t", "body": "b", "author_id": uuid4(), "created_at": "2026-01-01T00:00:00Z"})
    async with redis_client(section) as client:
        cache = Cache(client, section.key_prefix)
        assert await cache.get(document.id) is None
        await cache.put(document)
        assert await cache.get(document.id) == document
    assert await refused(server) == []
