"""A lease is kept by more than one heartbeat, begun only by who can answer, and given back whatever was cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import aiohttp
import pytest
from aiohttp import web

from groundwork.discovery.models import Status
from groundwork.errors import BackendUnavailable, InstanceConflict, InstanceUnknown, PlatformError, RateLimited, UnusableToken
from groundwork.health import Finding, HealthRegistry
from groundwork.health import Status as Health
from groundwork.registry.client import RegistryClient
from groundwork.registry.lease import RETRY_AFTER_MAX, RETRY_MAX, LeaseKeeper, beat_pause, retry_pause
from groundwork.registry.models import CheckSpec, Registration
from tests.app.health.support import until
from tests.app.processes import free_port

WISH = Registration(service_name="user-service", service_id="user-1", address="10.0.0.1", port=8000, check=CheckSpec(ttl="1s"))


class Registry:
    """What is registered, and what was asked for. `away` fails every call."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.calls: list[str] = []
        self.seen: list[Status] = []
        self.away: PlatformError | None = None
        self.hangs_after_register = False

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.away is not None:
            raise self.away

    async def register(self, wish: Registration) -> None:
        self._call("register")
        self.status = Status.PASSING
        self.seen.append(self.status)
        if self.hangs_after_register:
            await asyncio.Event().wait()

    async def heartbeat(self, service_id: str, status: Status) -> None:
        self._call("heartbeat")
        if self.status is None:
            raise InstanceUnknown(service_id)
        self.status = status
        self.seen.append(status)

    async def deregister(self, service_id: str) -> None:
        self._call("deregister")
        if self.status is None:
            raise InstanceUnknown(service_id)
        self.status = None


class ServiceHealth:
    """The health of a service that is ready as long as `finding` passes."""

    def __init__(self) -> None:
        self.registry = HealthRegistry(service="user-service")
        self.registry.observe("self", lambda: self.finding)
        self.finding = Finding(Health.PASS)
        self.registry.mark_ready()

    def becomes(self, status: Health) -> None:
        self.finding = Finding(status)
        self.registry.refresh()


def far(*_: object) -> float:
    """A pause that no test sees the end of."""
    return 3600.0


async def answers() -> bool:
    return True


@asynccontextmanager
async def keeping(registry: Registry, health: ServiceHealth) -> AsyncGenerator[LeaseKeeper]:
    keeper = LeaseKeeper(registry, WISH, health.registry, answers=answers)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("ttl", [1.0, 30.0, 3600.0])
def test_two_heartbeats_in_a_row_may_be_lost_before_a_lease_ends(ttl: float) -> None:
    pauses = [beat_pause(ttl, Random(seed)) for seed in range(200)]
    assert 3 * max(pauses) <= ttl
    assert min(pauses) > ttl / 5
    assert max(pauses) - min(pauses) > ttl / 20  # a fleet does not beat in step


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.5), (3, 2.0), (30, RETRY_MAX)])
def test_a_registry_that_is_away_is_asked_less_and_less_often_and_not_by_all_at_once(failures: int, longest: float) -> None:
    pauses = [retry_pause(failures, BackendUnavailable("away"), Random(seed)) for seed in range(200)]
    assert 0.25 <= min(pauses) < max(pauses) <= longest
    assert max(pauses) - min(pauses) > (longest - 0.25) / 2


@pytest.mark.parametrize(("asked", "least"), [(7.0, 7.0), (None, 0.25), (1e9, RETRY_AFTER_MAX)])
def test_the_registry_says_when_to_come_back(asked: float | None, least: float) -> None:
    pauses = [retry_pause(1, RateLimited("later", retry_after=asked), Random(seed)) for seed in range(200)]
    assert least <= min(pauses)
    assert max(pauses) <= max(least * 1.2, 0.5)
    assert len(set(pauses)) > 100


async def test_with_the_registry_away_readiness_that_flaps_costs_no_further_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, health = Registry(), ServiceHealth()
    registry.away = BackendUnavailable("away")
    monkeypatch.setattr("groundwork.registry.lease.retry_pause", far)
    async with keeping(registry, health):
        await until(lambda: registry.calls == ["register"])
        for status in (Health.FAIL, Health.PASS) * 10:
            health.becomes(status)
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
    assert registry.calls == ["register"]


async def test_a_change_of_readiness_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, health = Registry(), ServiceHealth()
    monkeypatch.setattr("groundwork.registry.lease.beat_pause", far)
    async with keeping(registry, health):
        await until(lambda: registry.status is Status.PASSING)
        health.becomes(Health.FAIL)
        await until(lambda: registry.status is Status.CRITICAL)


async def test_an_instance_that_is_not_ready_is_not_registered_again_as_passing() -> None:
    registry, health = Registry(), ServiceHealth()
    async with keeping(registry, health):
        await until(lambda: registry.status is Status.PASSING)
        health.becomes(Health.FAIL)
        await until(lambda: registry.status is Status.CRITICAL)
        registry.status = None  # it has lost everything
        registry.seen.clear()
        beats = registry.calls.count("heartbeat")
        await until(lambda: registry.calls.count("heartbeat") > beats)
        await asyncio.sleep(0.1)
        assert registry.seen == []
        health.becomes(Health.PASS)
        await until(lambda: registry.seen[:1] == [Status.PASSING])


async def test_an_instance_that_warns_says_so_right_after_it_has_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, health = Registry(), ServiceHealth()
    monkeypatch.setattr("groundwork.registry.lease.beat_pause", far)

    class Check:
        name = "cache"

        async def run(self) -> None:
            raise ConnectionError

    health.registry.add(Check(), critical=False)
    health.registry.start()
    async with keeping(registry, health):
        await until(lambda: registry.seen[:2] == [Status.PASSING, Status.WARNING])
    await health.registry.stop()


async def test_r30_a_registration_that_was_cut_off_is_taken_back() -> None:
    registry, health = Registry(), ServiceHealth()
    registry.hangs_after_register = True
    async with keeping(registry, health) as keeper:
        await until(lambda: registry.status is not None)
    await keeper.leave()
    assert registry.status is None


async def test_who_never_tried_to_register_says_no_goodbye() -> None:
    registry, health = Registry(), ServiceHealth()
    health.becomes(Health.FAIL)
    async with keeping(registry, health) as keeper:
        await asyncio.sleep(0.1)
    await keeper.leave()
    assert registry.calls == []


@asynccontextmanager
async def registry_server(status: int = 200, headers: dict[str, str] | None = None) -> AsyncGenerator[tuple[str, list[str]]]:
    """A registry that answers everything the same way, and the tokens that it was shown."""
    tokens: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        tokens.append(request.headers.get("Authorization", ""))
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}", tokens
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("text", ["abc", "abc\n", "abc\n\n", " abc \r\n"])
async def test_blanks_and_newlines_around_a_token_are_none_of_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    async with registry_server() as (url, tokens), RegistryClient(url, token_file=file) as client:
        await client.heartbeat("user-1", Status.PASSING)
    assert tokens == ["Bearer abc"]


@pytest.mark.parametrize("content", [b"one\ntwo", b"\xff\xfe", "tökén".encode()])
async def test_a_token_that_cannot_be_sent_is_an_error_of_the_platform_that_does_not_quote_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    async with registry_server() as (url, tokens), RegistryClient(url, token_file=file) as client:
        with pytest.raises(UnusableToken, match=r"registry\.token_file") as caught:
            await client.heartbeat("user-1", Status.PASSING)
        file.write_text("good")
        await client.heartbeat("user-1", Status.PASSING)
    assert "one" not in str(caught.value)
    assert tokens == ["Bearer good"]


@pytest.mark.parametrize(("status", "later", "asked"), [(429, "7", 7.0), (503, "2", 2.0), (429, None, None), (429, "soon", None)])
async def test_a_registry_that_asks_for_a_pause_is_heard(status: int, later: str | None, asked: float | None) -> None:
    async with registry_server(status, {} if later is None else {"Retry-After": later}) as (url, _), RegistryClient(url) as client:
        with pytest.raises(RateLimited) as caught:
            await client.register(WISH)
    assert caught.value.retry_after == asked


async def test_a_conflict_is_no_rate_limit() -> None:
    async with registry_server(409) as (url, _), RegistryClient(url) as client:
        with pytest.raises(InstanceConflict):
            await client.register(WISH)
    async with RegistryClient(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(BackendUnavailable) as caught:
            await client.register(WISH)
    assert isinstance(caught.value.__cause__, aiohttp.ClientError)
