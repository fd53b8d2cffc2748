"""The checks of all kinds of engine against real servers that stop, hang and come back (H1 and item 35)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from groundwork.consul.client import ConsulClient
from groundwork.engines import ENGINES, runtime
from groundwork.engines.redis import RedisCheck
from groundwork.health import Check, HealthRegistry
from groundwork.health.model import Closable
from groundwork.metrics import Metrics
from groundwork.settings import ConsulSettings, EngineSection, PostgresSettings, RabbitmqSettings, RedisSettings, ServerSection, Settings
from tests.app import servers
from tests.app.consul.real import find_in_cache
from tests.app.health.support import until
from tests.app.pki import Authority
from tests.app.processes import Server


@dataclass
class Target:
    """A running server, the service's section about it, and the name of both."""

    name: str
    server: Server
    section: EngineSection


def credentials(folder: Path, username: str, password: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "username").write_text(username)
    (folder / "password").write_text(password)
    return folder


@pytest.fixture(scope="module", params=list(ENGINES))
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Target]:
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    if name == "consul":
        find_in_cache()
    with getattr(servers, name)() as server:
        assert isinstance(server, Server)
        yield Target(name, server, section(server, credentials(folder / "credentials", server.username, server.password), folder))


def section(server: Server, own: Path, folder: Path) -> EngineSection:
    """What the platform would tell a service about the server."""
    match server:
        case servers.Postgres():
            return PostgresSettings(host=server.host, port=server.port, ca=server.ca, credentials=own, database="postgres")
        case servers.Redis():
            return RedisSettings(host=server.host, port=server.port, ca=server.ca, credentials=own)
        case servers.RabbitMq():
            return RabbitmqSettings(host=server.host, port=server.port, ca=server.ca, credentials=own)
        case servers.Consul():
            token = folder / "token"
            token.write_text(server.token)
            return ConsulSettings(address=server.address, ca=server.ca, token_file=token)
        case _:
            raise AssertionError(server)


@asynccontextmanager
async def check_of(name: str, section: EngineSection) -> AsyncGenerator[Check]:
    """The check that the platform makes from the settings."""
    settings = Settings.model_validate({"service": "test", name: section})
    async with AsyncExitStack() as stack:
        consul = settings.consul and await stack.enter_async_context(ConsulClient(settings.consul, registry=Metrics().registry))
        check = runtime(name).check(settings, consul)
        assert check is not None
        yield check
        if isinstance(check, Closable):
            await check.close()


@asynccontextmanager
async def watched(target: Target) -> AsyncGenerator[HealthRegistry]:
    health = HealthRegistry(service="test", metrics=Metrics())
    async with check_of(target.name, target.section) as check:
        health.add(check, timeout=1.0, ttl=0.2)
        health.mark_ready()
        health.start()
        yield health
        await health.stop()


async def becomes(health: HealthRegistry, http: int) -> None:
    """Readiness gets there; the deadline only ends what would never end."""
    async with asyncio.timeout(60):
        while True:
            if health.ready().http_status == http:
                return
            await asyncio.sleep(0.05)


async def test_h1_the_check_asks_the_real_server(target: Target) -> None:
    async with watched(target) as health:
        await becomes(health, 200)


async def test_r35_a_stopped_server_is_seen_and_its_return_too(target: Target) -> None:
    async with watched(target) as health:
        await becomes(health, 200)
        await asyncio.to_thread(target.server.kill)
        await becomes(health, 503)
        await asyncio.to_thread(target.server.start)
        await becomes(health, 200)


async def test_r35_a_server_that_hangs_is_a_timeout(target: Target) -> None:
    async with watched(target) as health:
        await becomes(health, 200)
        target.server.pause()
        try:
            await becomes(health, 503)
            (result,) = health.details().checks.values()
            assert result.output in {"timeout", "TimeoutError", "DeadlineExceeded"}
        finally:
            target.server.resume()
        await becomes(health, 200)


async def test_a_wrong_password_fails_and_the_right_one_is_read_without_a_restart(target: Target) -> None:
    if not isinstance(target.section, ServerSection):
        pytest.skip("who leads is told without a token")
    assert target.section.credentials is not None
    file = target.section.credentials / "password"
    right = file.read_text()
    file.write_text("wrong")
    async with watched(target) as health:
        await becomes(health, 503)
        for _ in range(5):
            await asyncio.sleep(0.1)
            assert health.ready().http_status == 503
        file.write_text(right)
        await becomes(health, 200)


async def test_a_certificate_of_another_authority_is_refused(target: Target, tmp_path: Path) -> None:
    Authority("stranger").write(tmp_path)
    stranger = target.section.model_copy(update={"ca": tmp_path / "ca.crt"})
    async with check_of(target.name, stranger) as check:
        with pytest.raises(Exception, match=r"(?i)certificate|ssl"):
            await check.run()


async def test_r35_a_standby_is_not_the_database_that_a_service_needs(target: Target) -> None:
    if not isinstance(target.section, PostgresSettings):
        pytest.skip("PostgreSQL only")
    server = target.server
    server.stop()
    signal = server.data / "standby.signal"
    signal.touch()
    server.owned(server.data)
    try:
        server.start()
        async with watched(target) as health:
            await until(lambda: "postgres" in health.details().checks)
            assert health.details().checks["postgres"].output == "read-only"
            assert health.ready().http_status == 503
    finally:
        server.stop()
        signal.unlink()
        server.start()


async def test_r35_a_redis_that_still_loads_is_not_well() -> None:
    """A server that answers PING with LOADING, as a real one does while it reads its data."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"*"):
                writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = int(server.sockets[0].getsockname()[1])
        check = RedisCheck(RedisSettings(host="127.0.0.1", port=port))
        with pytest.raises(Exception, match=r"(?i)loading"):
            await check.run()
        await check.close()
