"""Configuration over HTTP: no write is lost, nothing unreadable or secret gets in."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.app.api.support import Api
from tests.app.api.test_services import follow

CONFIG = "/api/v1/config"
LIMITS = f"{CONFIG}/documents/limits"
JSON = {"Content-Type": "application/json"}


async def test_created_read_replaced_removed(http: httpx2.AsyncClient) -> None:
    created = await http.put(LIMITS, json={"max": 1})
    assert (created.status_code, created.headers["location"]) == (201, LIMITS)
    read = await http.get(LIMITS)
    assert (read.json(), read.headers["etag"]) == ({"max": 1}, created.headers["etag"])
    replaced = await http.put(LIMITS, json={"max": 2}, headers={"If-Match": read.headers["etag"]})
    assert replaced.status_code == 204
    assert (await http.get(LIMITS)).json() == {"max": 2}
    assert (await http.delete(LIMITS, headers={"If-Match": replaced.headers["etag"]})).status_code == 204
    assert (await http.get(LIMITS)).status_code == 404


async def test_r32_a_write_over_what_the_writer_has_not_seen_is_412(http: httpx2.AsyncClient) -> None:
    first = await http.put(LIMITS, json=1)
    await http.put(LIMITS, json=2, headers={"If-Match": first.headers["etag"]})
    for answer in (
        await http.put(LIMITS, json=3, headers={"If-Match": first.headers["etag"]}),
        await http.delete(LIMITS, headers={"If-Match": first.headers["etag"]}),
        await http.put(LIMITS, json=3, headers={"If-Match": "nonsense"}),
        await http.put(LIMITS, json=3, headers={"If-None-Match": "*"}),
        await http.put(f"{CONFIG}/absent", json=3, headers={"If-Match": '"7"'}),
        await http.put(f"{CONFIG}/absent", json=3, headers={"If-Match": "*"}),
    ):
        assert (answer.status_code, answer.json()["type"]) == (412, "urn:platform:problem:config-conflict")
    assert (await http.get(LIMITS)).json() == 2


async def test_replacing_without_if_match_is_428(http: httpx2.AsyncClient) -> None:
    await http.put(LIMITS, json=1)
    assert (await http.put(LIMITS, json=2)).status_code == 428
    assert (await http.delete(LIMITS)).status_code == 428


async def test_r32_of_twenty_writers_one_wins(http: httpx2.AsyncClient) -> None:
    first = await http.put(LIMITS, json=0)
    answers = await asyncio.gather(*(http.put(LIMITS, json=n, headers={"If-Match": first.headers["etag"]}) for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [204] + [412] * 19


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"NaN",
        b'{"a": Infinity}',
        b'{"a":1,"a":2}',
        b"\x00",
        b"\xff\xfe{\x00}\x00",
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
        b"{'a':1}",
    ],
)
async def test_r31_what_is_not_json_never_gets_in(http: httpx2.AsyncClient, body: bytes) -> None:
    answer = await http.put(LIMITS, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:platform:problem:config-invalid")
    assert (await http.get(LIMITS)).status_code == 404


async def test_r31_half_a_megabyte_and_one_byte_is_413(http: httpx2.AsyncClient) -> None:
    most = b'"' + b"x" * (512 * 1024 - 2) + b'"'
    assert (await http.put(LIMITS, content=most, headers=JSON)).status_code == 201
    answer = await http.put(f"{CONFIG}/other", content=most + b" ", headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:platform:problem:payload-too-large")


@pytest.mark.parametrize(
    "value", [{"password": "x"}, {"db": {"admin_password": "x"}}, {"list": [{"apiKey": "x"}]}, {"token": "x"}, {"client_secret": "x"}]
)
async def test_a_secret_is_refused_with_the_fix(http: httpx2.AsyncClient, value: object) -> None:
    answer = await http.put(LIMITS, json=value)
    assert answer.status_code == 400
    assert "$secret" in answer.json()["detail"]


async def test_a_reference_to_a_secret_is_welcome(http: httpx2.AsyncClient) -> None:
    assert (await http.put(LIMITS, json={"password": {"$secret": "db"}, "token_ttl": "30s", "password_length": 12})).status_code == 201


@pytest.mark.parametrize(
    "key", ["..", "a/%2e%2e/b", "%2e%2e/x", "a//b", "a/", ".hidden", "a b", "a%00b", "events", "x" * 401, "ä", "a?b=c"[:1] + "%3Fb"]
)
async def test_keys_that_lead_elsewhere_are_refused(http: httpx2.AsyncClient, key: str) -> None:
    answer = await http.put(f"{CONFIG}/{key}", json=1)
    assert answer.status_code in {400, 404, 405}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_value_that_is_not_json_by_its_type_is_415(http: httpx2.AsyncClient) -> None:
    assert (await http.put(LIMITS, content=b"a: 1", headers={"Content-Type": "application/yaml"})).status_code == 415


async def test_an_etag_saves_the_body(http: httpx2.AsyncClient) -> None:
    created = await http.put(LIMITS, json=1)
    assert (await http.get(LIMITS, headers={"If-None-Match": created.headers["etag"]})).status_code == 304


async def test_events_name_what_changed_and_never_show_a_value(world: Api, http: httpx2.AsyncClient) -> None:
    events: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    following = asyncio.create_task(follow(world, f"{CONFIG}/events?prefix=documents/", events))
    async with asyncio.timeout(60):
        assert set(await events.get()) == {"index", "complete"}  # connected: from here on every change counts
    created = await http.put(LIMITS, json={"max": 4711})
    await http.put(f"{CONFIG}/elsewhere/x", json=1)
    async with asyncio.timeout(60):
        first = await events.get()
        await http.put(LIMITS, json={"max": 4712}, headers={"If-Match": created.headers["etag"]})
        second = await events.get()
    following.cancel()
    await asyncio.wait({following})
    assert (first["key"], first["kind"]) == ("documents/limits", "created")
    assert (second["key"], second["kind"]) == ("documents/limits", "updated")
    assert "4711" not in str(first)
