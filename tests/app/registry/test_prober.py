"""HTTP checks: what the registry asks and what it makes of the answers."""

from __future__ import annotations

import asyncio
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
from groundwork.registry.prober import AT_ONCE_PER_SERVICE, url_of
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
        stored = await self.registry.backend.get("s", "s-1")
        return None if stored is None else stored.record.effective_status

    async def later(self, seconds: float) -> Status | None:
        self.clock.now += seconds
        await self.registry.sweep()
        await self.registry.probe()
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


@dataclass
class Silent:
    """A server that takes connections and never answers; it knows how many it has and has had at once."""

    port: int = 0
    now: int = 0
    most: int = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await reader.read()  # until the other side gives up
        self.now -= 1
        writer.close()


@pytest_asyncio.fixture
async def silent() -> AsyncGenerator[Silent]:
    one = Silent()
    server = await asyncio.start_server(one.take, "127.0.0.1", 0)
    one.port = int(server.sockets[0].getsockname()[1])
    yield one
    server.close()


async def watch_over(world: World, service: str, service_id: str, port: int) -> None:
    check = CheckSpec(type="http", interval="10s", deregister_after="60s")
    wish = Registration(service_name=service, service_id=service_id, address="127.0.0.1", port=port, check=check)
    await world.registry.register(wish, ANONYMOUS)


async def test_r52_a_sweep_asks_nobody(world: World, target: Target) -> None:
    await world.registry.sweep()
    assert target.paths == []
    await world.registry.probe()
    assert target.paths == ["/health/ready"]


async def test_r52_silent_instances_of_one_service_keep_no_other_waiting(world: World, target: Target, silent: Silent) -> None:
    for number in range(100):
        await watch_over(world, "a-silent-one", f"id-{number}", silent.port)
    await watch_over(world, "z-last", "z-1", target.port)
    await world.registry.sweep()
    asking = asyncio.create_task(world.registry.probe())
    async with asyncio.timeout(20):
        while len(target.paths) < 2 or silent.now < AT_ONCE_PER_SERVICE:  # noqa: ASYNC110 - requests come from outside
            await asyncio.sleep(0.01)
    assert not asking.done()
    assert silent.most == AT_ONCE_PER_SERVICE
    asking.cancel()
    await asyncio.wait({asking})


async def test_r52_leases_end_while_instances_are_silent(silent: Silent) -> None:
    registry = ServiceRegistry(MemoryRegistry(MemoryStore()))
    world = World(registry, Clock())
    for number in range(20):
        await watch_over(world, "a-silent-one", f"id-{number}", silent.port)
    lease = Registration(service_name="s", service_id="s-1", address="10.0.0.1", port=1, check=CheckSpec(ttl="1s"))
    await registry.register(lease, ANONYMOUS)
    sweeping = asyncio.create_task(registry.run_sweeper())
    async with asyncio.timeout(60):
        while await world.status() is not Status.CRITICAL:  # noqa: ASYNC110 - the sweeper tells nobody
            await asyncio.sleep(0.05)
    assert silent.most > 0
    sweeping.cancel()
    await asyncio.wait({sweeping})


async def test_what_was_asked_of_an_instance_says_nothing_about_its_successor(world: World, target: Target) -> None:
    target.status = 500
    await world.later(10)
    (asked,) = (await world.registry.backend.list()).stored
    await world.registry.deregister("s-1", ANONYMOUS)
    await watch_over(world, "s", "s-1", target.port + 1)
    world.registry._probed = (asked,)  # pyright: ignore[reportPrivateUsage] - the sweep has not seen the successor yet
    world.clock.now += 10
    await world.registry.probe()
    assert await world.status() is Status.PASSING
