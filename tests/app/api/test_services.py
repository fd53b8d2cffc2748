"""Registration and discovery over HTTP: the rows of the table, and what a client relies on."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from tests.app.api.support import Api, wish

SERVICES = "/api/v1/services"
DISCOVER = f"{SERVICES}/discover/user-service"


async def register(http: httpx2.AsyncClient, **changes: object) -> httpx2.Response:
    answer = await http.post(f"{SERVICES}/register", json=wish(**changes))  # pyright: ignore[reportArgumentType]
    assert answer.status_code in {200, 201}, answer.text
    return answer


async def ids(http: httpx2.AsyncClient, **query: object) -> list[str]:
    answer = await http.get(DISCOVER, params=query)  # pyright: ignore[reportArgumentType]
    assert answer.status_code == 200, answer.text
    return [one["service_id"] for one in answer.json()["services"]]


async def told(http: httpx2.AsyncClient, expected: list[str], **query: object) -> None:
    """Discovery tells of these, as soon as its watch has heard."""
    async with asyncio.timeout(20):
        while True:
            answer = await http.get(DISCOVER, params=query)  # pyright: ignore[reportArgumentType]
            if answer.status_code == 200 and [one["service_id"] for one in answer.json()["services"]] == expected:
                return
            await asyncio.sleep(0.01)


async def test_a_registration_tells_where_its_lease_is_renewed(http: httpx2.AsyncClient) -> None:
    answer = await register(http, check={"ttl": "30s"})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{SERVICES}/user-service-001"
    body = answer.json()
    assert body["lease"] == {"ttl_seconds": 30.0, "heartbeat": f"{SERVICES}/user-service-001/heartbeat"}
    assert (body["status"], body["registered_at"][-1]) == ("registered", "Z")


async def test_the_same_again_is_200_and_another_body_409(http: httpx2.AsyncClient) -> None:
    await register(http)
    assert (await register(http)).status_code == 200
    other = await http.post(f"{SERVICES}/register", json=wish(port=1))
    assert other.status_code == 409
    assert other.json()["type"] == "urn:platform:problem:instance-conflict"


async def test_what_is_registered_is_discovered(http: httpx2.AsyncClient) -> None:
    await register(http, tags=["v2"], metadata={"zone": "z1", "version": "2.4.1"}, weight=10)
    answer = await http.get(DISCOVER)
    (one,) = answer.json()["services"]
    assert one == {
        "service_id": "user-service-001",
        "service_name": "user-service",
        "address": "10.244.1.7",
        "port": 8001,
        "status": "passing",
        "tags": ["v2"],
        "metadata": {"zone": "z1", "version": "2.4.1"},
        "weight": 10,
    }
    assert (answer.json()["stale"], answer.headers["age"], answer.headers["cache-control"]) == (False, "0", "no-cache")


async def test_an_unknown_service_is_404_and_a_sick_one_is_an_empty_list(http: httpx2.AsyncClient) -> None:
    unknown = await http.get(DISCOVER)
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:platform:problem:service-unknown")
    await register(http)
    beat = await http.put(f"{SERVICES}/user-service-001/heartbeat", json={"status": "fail"})
    assert beat.status_code == 204
    await told(http, [])
    await told(http, ["user-service-001"], healthy_only=False)


async def test_a_warning_instance_still_serves(http: httpx2.AsyncClient) -> None:
    await register(http)
    await http.put(f"{SERVICES}/user-service-001/heartbeat", json={"status": "warn"})
    assert [one["status"] for one in (await http.get(SERVICES)).json()["services"]] == ["warning"]
    await told(http, ["user-service-001"])


async def test_a_heartbeat_needs_no_body(http: httpx2.AsyncClient) -> None:
    await register(http)
    assert (await http.put(f"{SERVICES}/user-service-001/heartbeat")).status_code == 204


async def test_filters_by_all_tags_and_by_zone(http: httpx2.AsyncClient) -> None:
    await register(http, service_id="a", tags=["v1", "eu"], metadata={"zone": "z1"})
    await register(http, service_id="b", tags=["v1"], metadata={"zone": "z2"})
    await told(http, ["a", "b"], tags="v1")
    await told(http, ["a"], tags=["v1", "eu"])
    await told(http, ["b"], zone="z2")
    await told(http, [], tags="none")


async def test_maintenance_takes_out_and_back_in(http: httpx2.AsyncClient) -> None:
    await register(http)
    assert (await http.put(f"{SERVICES}/user-service-001/maintenance", json={"enabled": True, "reason": "disk"})).status_code == 204
    await told(http, [])
    listed = (await http.get(SERVICES)).json()["services"]
    assert [one["status"] for one in listed] == ["maintenance"]
    assert (await http.put(f"{SERVICES}/user-service-001/maintenance", json={"enabled": False})).status_code == 204
    await told(http, ["user-service-001"])


async def test_deregistered_is_gone(http: httpx2.AsyncClient) -> None:
    await register(http)
    assert (await http.delete(f"{SERVICES}/user-service-001")).status_code == 204
    assert (await http.delete(f"{SERVICES}/user-service-001")).status_code == 404
    async with asyncio.timeout(20):
        while True:
            if (await http.get(DISCOVER)).status_code == 404:
                break
    unknown = await http.put(f"{SERVICES}/user-service-001/heartbeat")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:platform:problem:instance-unknown")


async def test_an_etag_saves_the_body_until_something_changes(http: httpx2.AsyncClient) -> None:
    await register(http)
    first = await http.get(DISCOVER)
    same = await http.get(DISCOVER, headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    await register(http, service_id="second")
    await changed(http, first)
    assert (await http.get(DISCOVER, headers={"If-None-Match": first.headers["etag"]})).status_code == 200


async def changed(http: httpx2.AsyncClient, before: httpx2.Response) -> None:
    """Until discovery has heard of the change: a long poll, so that no time is guessed."""
    answer = await http.get(DISCOVER, params={"index": before.json()["index"], "wait": "30s"})
    assert answer.json()["index"] != before.json()["index"]


async def test_a_long_poll_returns_with_the_change(http: httpx2.AsyncClient) -> None:
    await register(http)
    before = (await http.get(DISCOVER)).json()["index"]
    waiting = asyncio.create_task(http.get(DISCOVER, params={"index": before, "wait": "60s"}))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await register(http, service_id="second")
    async with asyncio.timeout(20):
        answer = await waiting
    assert len(answer.json()["services"]) == 2


async def test_a_long_poll_without_a_change_returns_the_same(http: httpx2.AsyncClient) -> None:
    await register(http)
    before = (await http.get(DISCOVER)).json()
    after = (await http.get(DISCOVER, params={"index": before["index"], "wait": "10ms"})).json()
    assert (after["index"], after["services"]) == (before["index"], before["services"])


async def test_a_long_poll_ends_when_the_process_drains(world: Api, http: httpx2.AsyncClient) -> None:
    await register(http)
    before = (await http.get(DISCOVER)).json()["index"]
    waiting = asyncio.create_task(http.get(DISCOVER, params={"index": before, "wait": "60s"}))
    await asyncio.sleep(0.05)
    world.platform.health.mark_draining()
    async with asyncio.timeout(20):
        answer = await waiting
    assert answer.headers["connection"] == "close"


async def test_the_list_is_paged(http: httpx2.AsyncClient) -> None:
    for number in range(5):
        await register(http, service_id=f"id-{number}")
    first = (await http.get(SERVICES, params={"limit": 2})).json()
    assert [one["service_id"] for one in first["services"]] == ["id-0", "id-1"]
    second = (await http.get(SERVICES, params={"limit": 3, "after": first["next"]})).json()
    assert [one["service_id"] for one in second["services"]] == ["id-2", "id-3", "id-4"]
    assert "next" not in second


@pytest.mark.parametrize("strategy", ["random", "round_robin", "weighted_round_robin"])
async def test_select_gives_one_that_serves(http: httpx2.AsyncClient, strategy: str) -> None:
    await register(http, service_id="well")
    await register(http, service_id="sick")
    await http.put(f"{SERVICES}/sick/heartbeat", json={"status": "fail"})
    await heard(http, 1)
    for _ in range(10):
        answer = await http.get(f"{DISCOVER}/select", params={"strategy": strategy})
        assert answer.json()["service_id"] == "well"


async def heard(http: httpx2.AsyncClient, count: int) -> None:
    """Until discovery tells of so many that serve."""
    async with asyncio.timeout(20):
        while True:
            if len(await ids(http)) == count:
                return
            await asyncio.sleep(0.01)


async def test_round_robin_takes_turns_and_weights_count(http: httpx2.AsyncClient) -> None:
    await register(http, service_id="light", weight=1)
    await register(http, service_id="heavy", weight=3)
    await heard(http, 2)

    async def picks(strategy: str) -> dict[str, int]:
        found = [(await http.get(f"{DISCOVER}/select", params={"strategy": strategy})).json()["service_id"] for _ in range(40)]
        return {one: found.count(one) for one in set(found)}

    assert await picks("round_robin") == {"light": 20, "heavy": 20}
    assert await picks("weighted_round_robin") == {"light": 10, "heavy": 30}


@pytest.mark.parametrize("strategy", ["p2c", "least_connections", "consistent_hash", "nonsense"])
async def test_strategies_that_need_the_caller_are_refused(http: httpx2.AsyncClient, strategy: str) -> None:
    await register(http)
    answer = await http.get(f"{DISCOVER}/select", params={"strategy": strategy})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:platform:problem:validation")
    assert strategy in answer.json()["detail"]


async def test_select_without_a_healthy_instance_is_503(http: httpx2.AsyncClient) -> None:
    await register(http)
    await http.put(f"{SERVICES}/user-service-001/heartbeat", json={"status": "fail"})
    await heard(http, 0)
    answer = await http.get(f"{DISCOVER}/select")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:platform:problem:no-healthy-instance")
    assert answer.headers["retry-after"] == "1"


async def test_r25_fifty_posts_of_one_id(http: httpx2.AsyncClient) -> None:
    different = await asyncio.gather(*(http.post(f"{SERVICES}/register", json=wish(port=1000 + n)) for n in range(50)))
    assert sorted(answer.status_code for answer in different) == [201] + [409] * 49
    same = await asyncio.gather(*(http.post(f"{SERVICES}/register", json=wish(service_id="other")) for _ in range(50)))
    assert sorted(answer.status_code for answer in same) == [200] * 49 + [201]


async def test_events_tell_the_state_and_each_change(world: Api, http: httpx2.AsyncClient) -> None:
    """Read from the response's stream itself: the client of the tests would wait for its end."""
    await register(http)
    events: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    following = asyncio.create_task(follow(world, f"{DISCOVER}/events", events))
    async with asyncio.timeout(20):
        first = await events.get()
        await register(http, service_id="second")
        second = await events.get()
    following.cancel()
    await asyncio.wait({following})
    assert [one["service_id"] for one in listed(first)] == ["user-service-001"]
    assert [one["service_id"] for one in listed(second)] == ["second", "user-service-001"]


def listed(event: dict[str, object]) -> list[dict[str, object]]:
    found = event["services"]
    assert isinstance(found, list)
    return found  # pyright: ignore[reportUnknownVariableType] - JSON


async def follow(world: Api, path: str, into: asyncio.Queue[dict[str, object]]) -> None:
    """A client of server-sent events on the bare application."""

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        for line in bytes(message.get("body", b"")).decode().splitlines():  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            if line.startswith("data: "):
                into.put_nowait(json.loads(line.removeprefix("data: ")))

    path, _, query = path.partition("?")
    scope: dict[str, object] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [],
        "client": ("10.0.0.1", 1),
    }
    await world.app(scope, receive, send)  # pyright: ignore[reportArgumentType] - the shape that ASGI wants
