"""HTTP checks: what the registry asks and what it makes of the answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from groundwork.auth import ANONYMOUS
from groundwork.backends.memory import MemoryRegistry, MemoryStore
from groundwork.discovery.models import Status
from groundwork.registry.models import CheckSpec, Registration
from groundwork.registry.prober import url_of
from groundwork.registry.service import ServiceRegistry
from tests.app.registry.backends import Clock


@dataclass
class Target:
    """An instance that answers as it is told."""

    status: int = 200
    paths: list[str] = field(default_factory=list[str])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    port: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"} if self.status == 302 else {})


@pytest_asyncio.fixture
async def target() -> AsyncGenerator[Target]:
    one = Target()
    app = web.Application()
    app.router.add_get("/{path:.*}", one.answer)
    async with TestServer(app) as server:
        one.port = int(server.make_url("/").port or 0)
        yield one


@dataclass
class World:
    registry: ServiceRegistry
    clock: Clock

    async def status(self) -> Status | None:
        stored = await self.registry.backend.get("s-1")
        return None if stored is None else stored.record.effective_status

    async def later(self, seconds: float) -> Status | None:
        self.clock.now += seconds
        await self.registry.sweep()
        return await self.status()


@pytest_asyncio.fixture
async def world(target: Target) -> World:
    clock = Clock()
    one = World(ServiceRegistry(MemoryRegistry(MemoryStore()), clock=clock), clock)
    check = CheckSpec(type="http", interval="10s", deregister_after="60s")
    await one.registry.register(Registration(service_name="s", service_id="s-1", address="127.0.0.1", port=target.port, check=check), ANONYMOUS)
    return one


async def test_an_instance_that_answers_passes_without_heartbeats(world: World, target: Target) -> None:
    assert await world.later(0) is Status.PASSING
    assert await world.later(3600) is Status.PASSING
    assert target.paths == ["/health/ready"] * 2


async def test_it_is_asked_once_per_interval(world: World, target: Target) -> None:
    for _ in range(10):
        await world.later(1)
    assert len(target.paths) == 1


async def test_two_failures_make_it_critical_and_one_answer_brings_it_back(world: World, target: Target) -> None:
    target.status = 500
    assert await world.later(10) is Status.PASSING
    assert await world.later(10) is Status.CRITICAL
    target.status = 200
    assert await world.later(10) is Status.PASSING


@pytest.mark.parametrize(("status", "expected"), [(204, Status.PASSING), (429, Status.WARNING), (404, Status.CRITICAL), (302, Status.CRITICAL)])
async def test_what_an_answer_means(world: World, target: Target, status: int, expected: Status) -> None:
    target.status = status
    await world.later(10)
    assert await world.later(10) is expected


async def test_a_redirect_is_not_followed(world: World, target: Target) -> None:
    target.status = 302
    await world.later(10)
    assert target.paths == ["/health/ready"]


async def test_the_request_carries_no_credentials(world: World, target: Target) -> None:
    await world.later(10)
    assert not {"Authorization", "Cookie"} & set(target.headers[0])


async def test_an_instance_that_stays_critical_is_forgotten(world: World, target: Target) -> None:
    target.status = 500
    await world.later(10)
    await world.later(10)
    await world.later(1)
    assert await world.later(60) is None


@pytest.mark.parametrize(("address", "url"), [("10.1.2.3", "http://10.1.2.3:8080/h"), ("fd00::1", "http://[fd00::1]:8080/h"), ("localhost", None)])
def test_r39_only_an_ip_address_is_ever_asked(address: str, url: str | None) -> None:
    found = url_of(Registration(service_name="s", service_id="s-1", address=address, port=8080, health_check="/h", check=CheckSpec(type="http")))
    assert (None if found is None else str(found)) == url
