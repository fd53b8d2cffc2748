"""The checks of the four engines against real servers that stop, hang and come back (H1 and item 35)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from groundwork.consul.client import ConsulClient
from groundwork.health import Check, HealthRegistry
from groundwork.health.engines import ConsulCheck, PostgresCheck, RabbitmqCheck, RedisCheck
from groundwork.metrics import Metrics
from groundwork.settings import ConsulSettings, PostgresSettings, RabbitmqSettings, RedisSettings
from tests.app import engines
from tests.app.consul.real import find_in_cache
from tests.app.health.support import until
from tests.app.pki import Authority
from tests.app.processes import Server


@dataclass
class Engine:
    """A running server and the settings of a client."""

    server: Server
    settings: PostgresSettings | RedisSettings | RabbitmqSettings | ConsulSettings
    folder: Path


def credentials(folder: Path, username: str, password: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "username").write_text(username)
    (folder / "password").write_text(password)
    return folder


@pytest.fixture(scope="module", params=["postgres", "redis", "rabbitmq", "consul"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Engine]:
    folder = tmp_path_factory.mktemp(str(request.param))
    match request.param:
        case "postgres":
            with engines.postgres() as postgres:
                own = credentials(folder / "c", postgres.username, postgres.password)
                yield Engine(
                    postgres, PostgresSettings(host=postgres.host, port=postgres.port, ca=postgres.ca, credentials=own, database="postgres"), folder
                )
        case "redis":
            with engines.redis() as redis:
                own = credentials(folder / "c", redis.username, redis.password)
                yield Engine(redis, RedisSettings(host=redis.host, port=redis.port, ca=redis.ca, credentials=own), folder)
        case "rabbitmq":
            with engines.rabbitmq() as rabbitmq:
                own = credentials(folder / "c", rabbitmq.username, rabbitmq.password)
                yield Engine(rabbitmq, RabbitmqSettings(host=rabbitmq.host, port=rabbitmq.port, ca=rabbitmq.ca, credentials=own), folder)
        case _:
            find_in_cache()
            with engines.consul() as consul:
                token = folder / "token"
                token.write_text(consul.token)
                yield Engine(consul, ConsulSettings(address=consul.address, ca=consul.ca, token_file=token), folder)


@asynccontextmanager
async def check_of(settings: object) -> AsyncGenerator[Check]:
    """The check that the platform makes from the settings."""
    match settings:
        case PostgresSettings():
            check: Check = PostgresCheck(settings)
        case RedisSettings():
            check = RedisCheck(settings)
        case RabbitmqSettings():
            check = RabbitmqCheck(settings)
        case ConsulSettings():
            async with ConsulClient(settings, registry=Metrics().registry) as client:
                yield ConsulCheck(client)
            return
        case _:
            raise AssertionError(settings)
    yield check
    await check.close()


@asynccontextmanager
async def watched(engine: Engine) -> AsyncGenerator[HealthRegistry]:
    health = HealthRegistry(service="test", metrics=Metrics())
    async with check_of(engine.settings) as check:
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


async def test_h1_the_check_asks_the_real_server(engine: Engine) -> None:
    async with watched(engine) as health:
        await becomes(health, 200)


async def test_r35_a_stopped_server_is_seen_and_its_return_too(engine: Engine) -> None:
    async with watched(engine) as health:
        await becomes(health, 200)
        await asyncio.to_thread(engine.server.kill)
        await becomes(health, 503)
        await asyncio.to_thread(engine.server.start)
        await becomes(health, 200)


async def test_r35_a_server_that_hangs_is_a_timeout(engine: Engine) -> None:
    async with watched(engine) as health:
        await becomes(health, 200)
        engine.server.pause()
        try:
            await becomes(health, 503)
            (result,) = health.details().checks.values()
            assert result.output in {"timeout", "TimeoutError", "DeadlineExceeded"}
        finally:
            engine.server.resume()
        await becomes(health, 200)


async def test_a_wrong_password_fails_and_the_right_one_is_read_without_a_restart(engine: Engine) -> None:
    if isinstance(engine.settings, ConsulSettings):
        pytest.skip("who leads is told without a token")
    assert engine.settings.credentials is not None
    file = engine.settings.credentials / "password"
    right = file.read_text()
    file.write_text("wrong")
    async with watched(engine) as health:
        await becomes(health, 503)
        for _ in range(5):
            await asyncio.sleep(0.1)
            assert health.ready().http_status == 503
        file.write_text(right)
        await becomes(health, 200)


async def test_a_certificate_of_another_authority_is_refused(engine: Engine, tmp_path: Path) -> None:
    Authority("stranger").write(tmp_path)
    stranger = engine.settings.model_copy(update={"ca": tmp_path / "ca.crt"})
    async with check_of(stranger) as check:
        with pytest.raises(Exception, match=r"(?i)certificate|ssl"):
            await check.run()


async def test_r35_a_standby_is_not_the_database_that_a_service_needs(engine: Engine) -> None:
    if not isinstance(engine.settings, PostgresSettings):
        pytest.skip("PostgreSQL only")
    server = engine.server
    server.stop()
    signal = server.data / "standby.signal"
    signal.touch()
    server.owned(server.data)
    try:
        server.start()
        async with watched(engine) as health:
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
