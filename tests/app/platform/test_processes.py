"""Whole processes: what happens at the start, at the end, and when Consul loses everything. Items 1, 2 and 29."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.app import servers
from tests.app.consul.real import find_in_cache
from tests.app.platform.world import ROOT, Service, call, eventually, make, running
from tests.app.processes import free_port

SERVICES = "/api/v1/services"


def ids(registry: Service, name: str) -> set[str]:
    """What the registry tells about a service, sick ones included."""
    answer = call("GET", f"{registry.url}{SERVICES}/discover/{name}?healthy_only=false")
    found = answer.json().get("services", [])
    assert isinstance(found, list)
    return {str(one["service_id"]) for one in found}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON


@dataclass
class World:
    consul: servers.Consul
    registry: Service
    member: Service


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    """Consul, a registry, and one service that registers with it; the services are not started."""
    find_in_cache()
    with servers.consul() as consul:
        (tmp_path / "token").write_text(consul.token)
        section = {"address": consul.address, "ca": str(consul.ca), "token_file": str(tmp_path / "token"), "required": True}
        registry = make("registry", ["app", "registry"], tmp_path, {"consul": section})
        member = make("config", ["app", "config"], tmp_path, {"consul": section, "registry": {"url": registry.url}, "ttl_seconds": 3.0})
        yield World(consul, registry, member)


def test_r02_everybody_registers_again_after_consul_lost_everything(world: World) -> None:
    with running(world.registry, world.member):
        eventually(lambda: ids(world.registry, "config") == {"config-1"}, 60, "never registered")
        world.consul.kill()
        world.consul.wipe()
        world.consul.start()
        eventually(lambda: call("GET", f"{world.registry.url}{SERVICES}").status == 200, 60, "the registry never came back")
        eventually(lambda: b"config-1" in call("GET", f"{world.registry.url}{SERVICES}").body, 60, f"not registered again: {world.member.tail()}")
        eventually(lambda: ids(world.registry, "config") == {"config-1"}, 60, "not discovered again")


def test_r01_a_service_starts_without_its_back_end_and_catches_up(world: World) -> None:
    world.consul.kill()
    world.registry.start()
    try:
        eventually(lambda: _status(world.registry, "/health/live") == 200, 60, "does not live")
        assert _status(world.registry, "/health/started") == 200
        assert _status(world.registry, "/health/ready") == 503
        never_loaded = call("GET", f"{world.registry.url}{SERVICES}/discover/anything")
        assert (never_loaded.status, never_loaded.json()["type"]) == (503, "urn:platform:problem:backend-unavailable")
        world.consul.start()
        world.registry.wait_ready()
        eventually(lambda: call("GET", f"{world.registry.url}{SERVICES}/discover/anything").status == 404, 60, "never caught up")
    finally:
        assert world.registry.stop() == 0


def _status(service: Service, path: str) -> int:
    try:
        return call("GET", service.url + path, timeout=2).status
    except OSError:
        return 0


def test_an_outage_keeps_the_last_answer_and_says_how_old_it_is(world: World) -> None:
    with running(world.registry, world.member):
        discover = f"{world.registry.url}{SERVICES}/discover/config"
        eventually(lambda: ids(world.registry, "config") == {"config-1"}, 60, "never registered")
        world.consul.kill()
        eventually(lambda: call("GET", discover).json().get("stale") is True, 60, "the outage was never told")
        answer = call("GET", discover)
        assert answer.status == 200
        assert b"config-1" in answer.body
        assert call("POST", f"{world.registry.url}{SERVICES}/register", {}).status == 400
        write = call("PUT", f"{world.registry.url}{SERVICES}/config-1/heartbeat")
        assert (write.status, write.headers["retry-after"]) == (503, "1")
        world.consul.start()
        eventually(lambda: call("GET", discover).json().get("stale") is False, 60, "never fresh again")


def test_r29_a_process_that_is_told_to_stop_fails_no_request(tmp_path: Path) -> None:
    """Under load: unready first, then deregistered, then what runs is finished; all answers are good until the port is closed."""
    registry = make("app", ["app"], tmp_path, {}, instance="registry")
    leaving = make(
        "app", ["app"], tmp_path, {"registry": {"url": registry.url}, "drain_seconds": 2.0, "rate_limit_per_second": 1e6}, instance="leaving"
    )
    with running(registry, leaving):
        eventually(lambda: "leaving" in ids(registry, "app"), 60, "never registered")
        seen = asyncio.run(_under_load(leaving, registry))
        assert leaving.process is not None
        assert leaving.process.wait(timeout=40) == 0
    assert set(seen.statuses) == {200}, seen.statuses
    assert len(seen.statuses) > 20
    assert seen.ready_after == 503
    assert not seen.registered_after
    assert seen.closes  # a kept connection is told to go elsewhere
    assert seen.long_poll == 200


@dataclass
class Seen:
    statuses: list[int]
    ready_after: int = 0
    registered_after: bool = True
    closes: bool = False
    long_poll: int = 0


async def _under_load(leaving: Service, registry: Service) -> Seen:
    seen = Seen([])
    stop = asyncio.Event()
    own = f"{leaving.url}{SERVICES}"

    async def load(session: aiohttp.ClientSession) -> None:
        while not stop.is_set():
            async with session.get(own) as answer:
                await answer.read()
                seen.statuses.append(answer.status)
                seen.closes |= answer.headers.get("Connection", "").lower() == "close"
            await asyncio.sleep(0.01)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        body = {"service_name": "x", "service_id": "x", "address": "10.0.0.1", "port": 1}
        async with session.post(f"{registry.url}{SERVICES}/register", json=body) as answer:  # where the leaving process looks things up
            assert answer.status == 201
        index = await _index(session, f"{own}/discover/x")
        poll = asyncio.create_task(_get(session, f"{own}/discover/x?index={index}&wait=60s"))
        loads = [asyncio.create_task(load(session)) for _ in range(4)]
        await asyncio.sleep(0.5)
        leaving.terminate()
        async with asyncio.timeout(20):
            while True:
                async with session.get(f"{leaving.url}/health/ready") as answer:
                    seen.ready_after = answer.status
                if seen.ready_after == 503:
                    break
            while True:
                seen.registered_after = "leaving" in await asyncio.to_thread(ids, registry, "app")
                if not seen.registered_after:
                    break
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # still inside the drain: clients that have not noticed are served
        stop.set()
        await asyncio.gather(*loads)
        seen.long_poll = await poll
    return seen


async def _index(session: aiohttp.ClientSession, url: str) -> int:
    """The index of an answer, once what was registered elsewhere is visible here."""
    async with asyncio.timeout(20):
        while True:
            async with session.get(url) as answer:
                if answer.status == 200:
                    return int((await answer.json())["index"])
            await asyncio.sleep(0.05)


async def _get(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        await answer.read()
        return answer.status


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        ((), {"PLATFORM_PROFILE": "prod"}, "for development"),
        (("registry",), {"PLATFORM_PROFILE": "prod", "PLATFORM_SERVICE": "registry"}, "auth.issuers"),
        (("registry",), {}, "service"),
        (("registry",), {"PLATFORM_SERVICE": "registry", "PLATFORM_BACKEND": "consul"}, "consul.address"),
        ((), {"PLATFORM_NONSENSE__X": "1", "PLATFORM_HTTP_PORT": "0"}, "http_port"),
    ],
)
def test_settings_that_cannot_work_end_the_start_with_one_line(arguments: tuple[str, ...], environment: dict[str, str], named: str) -> None:
    ended = run(*arguments, **environment)
    assert ended.returncode == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_port_that_is_taken_ends_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run("--port", str(taken.getsockname()[1]), PLATFORM_METRICS_PORT=str(free_port()))
    assert ended.returncode != 0


def test_alone_it_says_what_it_does_without(tmp_path: Path) -> None:
    one = make("app", ["app"], tmp_path, {})
    with running(one):
        page = call("GET", f"{one.url}/docs")
        assert page.status == 200
        assert "server" not in page.headers
        metrics = call("GET", one.metrics_url)
        assert "server" not in metrics.headers
        assert b"http_request_seconds_count" in metrics.body
    log = one.log.read_text()
    assert "no Consul is configured" in log
    assert "authentication is off" in log
