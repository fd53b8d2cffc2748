"""The object that a service holds: what it does by itself, and that it gives everything back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from groundwork import Platform
from groundwork.auth import ANONYMOUS
from groundwork.discovery.models import Status
from groundwork.errors import InvalidRequest, InvalidSettings
from groundwork.health import State
from groundwork.health import Status as Health
from groundwork.registry.models import Listing, Registration
from groundwork.settings import SETTINGS_FILE_VARIABLE, Settings
from groundwork.testing.simulator import ConsulSimulator
from tests.app.health.support import Probe, until
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


async def forever() -> None:
    await asyncio.Event().wait()


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


async def test_r60_background_work_given_as_a_function_is_begun_again_and_health_tells_of_it() -> None:
    runs: list[int] = []

    async def fails_once() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("gone")
        await asyncio.Event().wait()

    async with Platform(settings(), configure_logs=False) as p:
        p.run(fails_once, name="work")
        await until(lambda: len(runs) == 2)
        assert p.health.details().checks["background"].output == "work: RuntimeError"
        assert p.health.live().http_status == p.health.ready().http_status == 200
        assert p.metrics.registry.get_sample_value("background_failures_total", {"task": "work"}) == 1


async def test_r60_every_task_of_a_running_process_is_supervised_and_none_dies_unseen(tmp_path: Path) -> None:
    """Each of them is killed in turn."""
    before = asyncio.all_tasks()
    known = settings(snapshot_file=tmp_path / "state.json", secrets_dir=tmp_path)
    async with Platform(known, configure_logs=False) as p, listening(known.http_port):
        p.health.add(Probe(), ttl=3600)
        p.config.subscribe("limits", lambda _: None)
        p.run(forever, name="worker")
        await becomes(p, ["user-1"])
        await p.discovery.wait_for("user-service", timeout=20)
        works = {work.name.partition(":")[0]: work for work in p.supervisor.works}
        kinds = {"config-files", "config-snapshot", "config-subscription", "event-loop-lag", "health", "lease", "sweeper", "watch", "worker"}
        assert works.keys() == kinds
        running = {task.get_name() for task in asyncio.all_tasks() - before}
        of_the_sweeper = {name for name in running if name == "ends leases" or name.startswith("asks ")}  # it ends with each of them
        assert running - of_the_sweeper == {work.name for work in p.supervisor.works}
        for kind, work in works.items():
            killed = work.task
            assert killed is not None
            killed.cancel()
            await until(lambda work=work, killed=killed: work.task not in {None, killed})
            assert p.metrics.registry.get_sample_value("background_failures_total", {"task": kind}) == 1
            assert f"{work.name}: " in "; ".join(p.supervisor.troubles)
        assert p.health.details().status is Health.WARN
        assert p.health.live().http_status == 200
        await p.backends.config.put("config/user-service/limits", b"7")
        await until(lambda: p.config.get("limits", None) == 7)


async def test_a_normal_stop_breaks_nothing_and_gives_the_sweepers_lock_back(consul_simulator: ConsulSimulator) -> None:
    found: list[object] = []
    async with Platform(settings(consul=consul_simulator.settings), configure_logs=False) as p:

        async def work() -> None:
            try:
                await forever()
            finally:
                found.append(await p.backends.registry.list())  # a last word: what it uses is still open

        p.run(work, name="worker")
        p.run(p.registry.run_sweeper, name="sweeper")
        await until(lambda: bool(consul_simulator.store.sessions))
    assert found == [Listing(())]
    assert consul_simulator.store.sessions == {}
    assert p.health.state is State.DRAINING
    assert p.metrics.registry.get_sample_value("background_failures_total", {"task": "sweeper"}) is None


async def test_who_has_closed_never_takes_the_sweepers_lock_again(consul_simulator: ConsulSimulator) -> None:
    async with Platform(settings(consul=consul_simulator.settings), configure_logs=False) as p:
        backend = p.backends.registry
        assert await backend.lead()
        await backend.close()
        assert not await backend.lead()
        assert consul_simulator.store.sessions == {}


async def test_background_work_ends_before_what_it_uses_is_closed_around_the_served_application() -> None:
    used: list[bool] = []

    @asynccontextmanager
    async def pool() -> AsyncGenerator[list[bool]]:
        opened = [True]
        yield opened
        opened[0] = False

    async with Platform(settings(metrics_port=free_port()), configure_logs=False) as p, pool() as opened:

        async def work() -> None:
            try:
                await forever()
            finally:
                used.append(opened[0])

        p.run(work(), name="worker")
        serving = asyncio.create_task(p.serve(p.app("Test")))
        async with httpx2.AsyncClient() as http:
            await until_answers(http, f"http://127.0.0.1:{p.settings.http_port}/health/live")
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        assert used == [True]


async def until_answers(http: httpx2.AsyncClient, url: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await http.get(url)
            except httpx2.TransportError:
                await asyncio.sleep(0.02)
            else:
                return


class Words(BaseModel):
    greeting: str = "Hello"


@pytest.mark.parametrize(("profile", "ready"), [("dev", 200), ("prod", 503)])
async def test_r61_a_service_without_its_configuration_waits_and_then_does_what_its_profile_says(
    consul_simulator: ConsulSimulator, profile: str, ready: int
) -> None:
    consul_simulator.put("config/user-service/words", '{"greeting": "Bye"}')
    await consul_simulator.stop()
    known = settings(consul=consul_simulator.settings, profile=profile, config_wait_seconds=0.3)
    async with Platform(known, configure_logs=False) as p:
        assert p.health.ready().http_status == 200
        words = p.config.bind("words", Words)
        assert p.health.ready().http_status == 503
        assert "waits for its configuration" in p.health.details().checks["configuration"].output
        await asyncio.sleep(0.5)
        assert p.health.ready().http_status == ready
        assert p.health.live().http_status == 200
        assert ("code's defaults are in force" in p.health.details().checks["configuration"].output) == (ready == 200)
        assert p.metrics.registry.get_sample_value("config_on_defaults") == 1
        await consul_simulator.start()
        await until(lambda: words.current.greeting == "Bye")
        await until(lambda: p.health.details().status is Health.PASS)
        assert p.health.ready().http_status == 200


async def test_an_outage_of_the_configuration_and_a_rejected_value_show_in_health(consul_simulator: ConsulSimulator) -> None:
    async with Platform(settings(consul=consul_simulator.settings, max_stale_seconds=0.1), configure_logs=False) as p:
        p.config.bind("words", Words)
        await until(lambda: p.config.loaded and not p.config.stale)
        consul_simulator.put("config/user-service/words", '{"greeting": 1}')
        await until(lambda: "configuration" in p.health.details().checks)
        assert p.health.details().checks["configuration"].output == "rejected, so that what was before stays in force: words"
        consul_simulator.put("config/user-service/words", '{"greeting": "Bye"}')
        await until(lambda: p.health.details().status is Health.PASS)
        await consul_simulator.stop()
        await until(lambda: p.health.details().status is Health.WARN)
        assert "was read last stays in force" in p.health.details().checks["configuration"].output
        assert p.health.ready().http_status == 200


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
