"""Event streams and long polls: bounded, ended with the token, resumed where they were, and encoded once for all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest

from app.api.changes import KEPT, ChangeLog
from app.api.models import ServicesAnswer
from groundwork.auth.verifier import LEEWAY
from groundwork.backends.base import ConfigEntry
from groundwork.consul.watch import Update
from tests.app.api.support import POD, SCOPES, Api, api, wish
from tests.app.auth.issuer import Issuer, issuer

SERVICES = "/api/v1/services"
CONFIG = "/api/v1/config"
EVENTS = f"{SERVICES}/discover/user-service/events"


@pytest.fixture(scope="module")
def tokens() -> Generator[Issuer]:
    with issuer() as one:
        yield one


@dataclass
class Stream:
    """What a client of server-sent events has got so far."""

    status: int = 0
    body: bytes = b""
    ended: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def has(self, count: int) -> list[dict[str, object]]:
        """The first events, as soon as there are that many."""
        async with asyncio.timeout(30):
            while len(self.events) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.events

    @property
    def events(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for block in self.body.decode().split("\n\n")[:-1]:
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                found.append({"event": lines["event"], "id": lines.get("id"), **json.loads(lines["data"])})
        return found


@asynccontextmanager
async def stream(world: Api, path: str, *, token: str = "", last: str = "", address: str = POD) -> AsyncGenerator[Stream]:
    """Follows a stream until the block ends or the server ends it."""
    one, gone = Stream(), asyncio.Event()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            one.status = int(str(message["status"]))
        else:
            body = message.get("body", b"")
            assert isinstance(body, bytes)
            one.body += body
            one.ended = not message.get("more_body", False)
        one.arrived.set()

    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    headers += [(b"last-event-id", last.encode())] if last else []
    path, _, query = path.partition("?")
    scope: dict[str, object] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": headers,
        "client": (address, 1),
    }
    following = asyncio.create_task(world.app(scope, receive, send))  # pyright: ignore[reportArgumentType] - the shape that ASGI wants
    async with asyncio.timeout(30):
        while not one.status:
            one.arrived.clear()
            await one.arrived.wait()
    yield one
    gone.set()
    async with asyncio.timeout(30):
        await asyncio.wait({following})
    following.result()


@asynccontextmanager
async def guarded(tokens: Issuer, **settings: object) -> AsyncGenerator[Api]:
    auth = {"issuers": [tokens.settings.model_copy(update={"scopes": SCOPES}).model_dump()]}
    async with api(auth=auth, **settings) as world:
        yield world


async def test_r54_a_caller_has_so_many_streams_and_the_others_have_theirs(tokens: Issuer) -> None:
    loud, calm = tokens.account("loud"), tokens.account("calm")
    async with guarded(tokens, max_streams_per_caller=2) as world:
        async with stream(world, f"{CONFIG}/events", token=loud), stream(world, f"{CONFIG}/events", token=loud):
            async with stream(world, f"{CONFIG}/events", token=loud) as third:
                assert (third.status, json.loads(third.body)["type"]) == (429, "urn:platform:problem:rate-limited")
            async with stream(world, f"{CONFIG}/events", token=calm) as other:
                assert other.status == 200
        async with stream(world, f"{CONFIG}/events", token=loud) as again:  # the first two are gone
            assert again.status == 200


async def test_r54_all_streams_together_are_bounded(tokens: Issuer) -> None:
    async with (
        guarded(tokens, max_streams=2) as world,
        stream(world, f"{CONFIG}/events", token=tokens.account("a")),
        stream(world, f"{CONFIG}/events", token=tokens.account("b")),
        stream(world, f"{CONFIG}/events", token=tokens.account("c")) as third,
    ):
        assert third.status == 503


async def test_r54_while_nobody_says_who_calls_an_address_is_a_caller() -> None:
    async with (
        api(max_streams_per_caller=1) as world,
        stream(world, f"{CONFIG}/events", address="10.0.0.1"),
        stream(world, f"{CONFIG}/events", address="10.0.0.1") as second,
        stream(world, f"{CONFIG}/events", address="10.0.0.2") as other,
    ):
        assert (second.status, other.status) == (429, 200)


async def test_r54_a_long_poll_is_a_stream_too() -> None:
    async with api(max_streams_per_caller=1) as world, world.client() as http:
        await http.post(f"{SERVICES}/register", json=wish())
        index = (await http.get(f"{SERVICES}/discover/user-service")).json()["index"]
        query = {"index": index, "wait": "60s"}
        async with stream(world, EVENTS):
            assert (await http.get(f"{SERVICES}/discover/user-service", params=query)).status_code == 429
        assert (await http.get(f"{SERVICES}/discover/user-service", params=query | {"wait": "10ms"})).status_code == 200


async def test_r54_a_stream_ends_with_the_token_of_its_caller(tokens: Issuer) -> None:
    ends_soon = tokens.token(sub="system:serviceaccount:demo:soon", exp=int(time.time() - LEEWAY) + 3)
    async with guarded(tokens) as world, stream(world, f"{CONFIG}/events", token=ends_soon) as one:
        assert one.status == 200
        async with asyncio.timeout(30):
            while not one.ended:
                one.arrived.clear()
                await one.arrived.wait()


async def put(http: httpx2.AsyncClient, key: str, value: object) -> str:
    answer = await http.put(f"{CONFIG}/{key}", json=value, headers={"If-Match": "*"} if (await http.get(f"{CONFIG}/{key}")).is_success else {})
    assert answer.is_success, answer.text
    return answer.headers["etag"].strip('"')


async def test_r55_who_comes_back_gets_what_it_missed_and_nothing_twice(world: Api, http: httpx2.AsyncClient) -> None:
    path = f"{CONFIG}/events?prefix=documents/"
    async with stream(world, path) as always:
        await always.has(1)
        async with stream(world, path) as first:
            await first.has(1)
            await put(http, "documents/a", 1)
            seen = str((await first.has(2))[-1]["id"])
        await put(http, "documents/b", 1)
        await put(http, "elsewhere/c", 1)
        await put(http, "documents/a", 2)
        await always.has(4)
        async with stream(world, path, last=seen) as again:
            connected, *missed = await again.has(3)
            assert (connected["event"], connected["complete"], connected["id"]) == ("config.connected", True, seen)
            assert [(one["key"], one["kind"]) for one in missed] == [("documents/b", "created"), ("documents/a", "updated")]
            await put(http, "documents/a", 3)
            assert (await again.has(4))[-1]["key"] == "documents/a"
            assert len(again.events) == 4


@pytest.mark.parametrize("last", ["1", "99999999"])
async def test_r55_who_was_away_for_too_long_is_told_to_read_again(world: Api, http: httpx2.AsyncClient, last: str) -> None:
    await put(http, "documents/a", 1)
    async with stream(world, f"{CONFIG}/events", last=last) as one:
        (connected,) = await one.has(1)
        assert connected["complete"] is False


@pytest.mark.parametrize("last", ["nonsense", "-1", "1" * 20, "\xb2"])
async def test_r55_what_is_no_index_is_nothing(world: Api, last: str) -> None:
    async with stream(world, f"{CONFIG}/events", last=last) as one:
        assert (await one.has(1))[0]["complete"] is True


async def test_r55_a_service_that_has_not_changed_is_not_told_again(world: Api, http: httpx2.AsyncClient) -> None:
    await http.post(f"{SERVICES}/register", json=wish())
    async with stream(world, EVENTS) as first:
        seen = str((await first.has(1))[0]["id"])
    async with stream(world, EVENTS, last=seen) as again, stream(world, EVENTS) as fresh:
        await fresh.has(1)
        await http.post(f"{SERVICES}/register", json=wish(service_id="second"))
        await fresh.has(2)
        assert [one["id"] for one in await again.has(1)] == [fresh.events[1]["id"]]


async def test_r56_a_change_is_encoded_once_for_all_streams(world: Api, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await http.post(f"{SERVICES}/register", json=wish())
    made, real = 0, ServicesAnswer.of.__func__  # pyright: ignore[reportFunctionMemberAccess] - a class method's function

    def counted(cls: type[ServicesAnswer], *args: object) -> ServicesAnswer:
        nonlocal made
        made += 1
        return real(cls, *args)

    monkeypatch.setattr(ServicesAnswer, "of", classmethod(counted))
    async with stream(world, EVENTS) as one, stream(world, EVENTS) as two, stream(world, EVENTS) as three:
        for follower in (one, two, three):
            await follower.has(1)
        await http.post(f"{SERVICES}/register", json=wish(service_id="second"))
        for follower in (one, two, three):
            await follower.has(2)
    assert made == 2


def state(index: int, *, reset: bool = False, **keys: int) -> Update[tuple[ConfigEntry, ...]]:
    return Update(tuple(ConfigEntry(f"config/{key}", b"", at) for key, at in keys.items()), index, index, reset)


def test_r56_a_change_of_configuration_is_one_event_however_many_read_it() -> None:
    log = ChangeLog("config/")
    log.seen(state(1))
    log.seen(state(2, a=2))
    one, two = log.after(0), log.after(0)
    assert one is not None
    assert two is not None
    assert one[0].event.wire is two[0].event.wire


def test_r55_only_the_last_change_of_an_index_carries_it() -> None:
    log = ChangeLog("config/")
    log.seen(state(1, old=1))
    log.seen(state(9, b=7, a=7, c=8))
    changes = log.after(0)
    assert changes is not None
    assert [(one.key, one.event.id) for one in changes] == [("config/a", None), ("config/b", 7), ("config/c", 8), ("config/old", 9)]
    assert log.position(7) == 2


def test_r55_the_log_is_bounded_and_says_from_where_it_is_whole() -> None:
    log = ChangeLog("config/")
    log.seen(state(1))
    for index in range(2, KEPT + 12):
        log.seen(state(index, a=index))
    assert log.position(11) == log.end - KEPT
    assert log.position(10) is None
    assert log.after(log.end - KEPT - 1) is None
    assert log.after(log.end) == []


def test_r55_indexes_that_begin_anew_compare_with_nothing() -> None:
    log = ChangeLog("config/")
    log.seen(state(100, a=100))
    log.seen(state(5, a=5, reset=True))
    assert log.position(100) is None
    assert log.position(4) is None
    changes = log.after(0)
    assert changes is not None
    assert [one.key for one in changes] == ["config/a"]  # whoever listens all the time is told


def test_r55_what_happens_unseen_is_not_called_complete() -> None:
    log = ChangeLog("config/")
    log.seen(state(1))
    log.seen(state(2, a=2))
    log.forget()
    log.seen(state(7, a=7))
    assert log.position(2) is None
    assert log.position(7) == log.end
