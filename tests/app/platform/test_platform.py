"""The object that a service holds: what it does by itself, and that it gives everything back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from groundwork import Platform
from groundwork.auth import ANONYMOUS
from groundwork.discovery.models import Status
from groundwork.errors import InvalidRequest, InvalidSettings
from groundwork.registry.models import Registration
from groundwork.settings import SETTINGS_FILE_VARIABLE, Settings
from tests.app.health.support import until
from tests.app.processes import free_port


def settings(**changes: object) -> Settings:
    return Settings.model_validate({"service": "user-service", "instance_id": "user-1", "http_port": free_port(), "drain_seconds": 0.0, **changes})


@asynccontextmanager
async def listening(port: int) -> AsyncGenerator[None]:
    """Something answers on the port."""

    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", port)
    async with server:
        yield


async def registered(p: Platform) -> list[str]:
    return [stored.record.service_id for stored in (await p.backends.registry.list()).stored]


async def becomes(p: Platform, wanted: list[str]) -> None:
    async with asyncio.timeout(20):
        while True:
            if await registered(p) == wanted:
                return
            await asyncio.sleep(0.01)


async def test_a_service_registers_once_it_answers_and_leaves_at_the_end() -> None:
    known = settings(tags=("v2",), zone="z1", version="2.4.1")
    async with Platform(known, configure_logs=False) as p:
        assert await registered(p) == []
        async with listening(known.http_port):
            await becomes(p, ["user-1"])
            snapshot = await p.discovery.wait_for("user-service", timeout=20)
            (one,) = snapshot.instances
            assert (one.port, one.tags, one.zone, one.metadata["version"]) == (known.http_port, ("v2",), "z1", "2.4.1")
        await p.drain()
        assert await registered(p) == []


async def test_a_service_that_is_not_ready_tells_so_with_its_heartbeat() -> None:
    known = settings()

    class Database:
        name = "database"
        component_type = "datastore"
        well = True

        async def run(self) -> None:
            if not self.well:
                raise ConnectionError

        async def close(self) -> None:
            pass

    database = Database()
    async with Platform(known, configure_logs=False) as p, listening(known.http_port):
        p.health.add(database, ttl=0.01)
        await becomes(p, ["user-1"])
        database.well = False
        async with asyncio.timeout(20):
            async for snapshot in p.discovery.watch("user-service"):
                if snapshot.instances and snapshot.instances[0].status is Status.CRITICAL:
                    break


async def test_a_service_that_the_registry_forgot_registers_again() -> None:
    known = settings(ttl_seconds=1.0)
    async with Platform(known, configure_logs=False) as p, listening(known.http_port):
        await becomes(p, ["user-1"])
        (stored,) = (await p.backends.registry.list()).stored
        await p.backends.registry.remove(stored)
        assert await registered(p) == []
        await becomes(p, ["user-1"])


async def test_a_predecessor_with_another_body_is_replaced() -> None:
    known = settings()
    async with Platform(known, configure_logs=False) as p:
        old = Registration(service_name="user-service", service_id="user-1", address="127.0.0.1", port=1)
        await p.registry.register(old, ANONYMOUS)
        async with listening(known.http_port), asyncio.timeout(20):
            async for snapshot in p.discovery.watch("user-service"):
                if [one.port for one in snapshot.instances] == [known.http_port]:
                    break


async def test_without_consul_it_says_so_in_health() -> None:
    async with Platform(settings(), configure_logs=False) as p:
        report = p.health.details()
        assert report.http_status == 200
        assert "embedded" in report.checks["backend"].output


async def test_background_work_that_fails_breaks_the_process() -> None:
    async def fails() -> None:
        raise RuntimeError("gone")

    async with Platform(settings(), configure_logs=False) as p:
        p.run(fails(), name="work")
        await until(lambda: p.health.live().http_status == 503)


async def test_background_work_ends_with_the_platform() -> None:
    ended = asyncio.Event()

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Platform(settings(), configure_logs=False) as p:
        p.run(works(), name="work")
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_r30_nothing_is_left_behind() -> None:
    """Neither when the block ends nor when entering is cancelled."""
    before = asyncio.all_tasks()
    async with Platform(settings(), configure_logs=False):
        pass
    for delay in (0.0, 0.001, 0.01):

        async def enter() -> None:
            async with Platform(settings(), configure_logs=False):
                await asyncio.Event().wait()

        task = asyncio.create_task(enter())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait({task})
    assert asyncio.all_tasks() - before == set()


async def test_configuration_is_bound_and_follows() -> None:
    class Limits(BaseModel):
        most: int = 5

    async with Platform(settings(), configure_logs=False) as p:
        limits = p.config.bind("limits", Limits)
        assert limits.current.most == 5
        await p.backends.config.put("config/user-service/limits", b'{"most": 7}')
        await until(lambda: limits.current.most == 7)


async def test_one_balancer_per_service_and_strategy() -> None:
    async with Platform(settings(), configure_logs=False) as p:
        assert p.balancer("document-service") is p.balancer("document-service")
        assert p.balancer("document-service") is not p.balancer("document-service", strategy="random")
        with pytest.raises(InvalidRequest, match="nonsense"):
            p.balancer("document-service", strategy="nonsense")


async def test_the_routes_fit_into_an_application_of_ones_own() -> None:
    async with Platform(settings(), configure_logs=False) as p:
        app = FastAPI()
        app.include_router(p.router())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as http:
            assert (await http.get("/health/ready")).json() == {"status": "pass"}
            assert "event_loop_lag_seconds" in (await http.get("/metrics")).text


def test_the_environment_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTINGS_FILE_VARIABLE, raising=False)
    monkeypatch.setenv("PLATFORM_ZONE", "z9")
    p = Platform.from_env(service="user-service", port=8001)
    assert (p.settings.service, p.settings.http_port, p.settings.zone) == ("user-service", 8001, "z9")


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_HTTP_PORT", "eighty")
    with pytest.raises(InvalidSettings, match="http_port"):
        Platform.from_env(service="user-service")


def test_outside_of_the_block_it_says_how_to_use_it() -> None:
    with pytest.raises(InvalidSettings, match="async with"):
        _ = Platform(settings(), configure_logs=False).discovery
