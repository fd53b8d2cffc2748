"""The prepared answer of discovery is the route's own, whatever happens to the service."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from app.api import shortcut
from tests.app.api.support import SCOPES, api, wish
from tests.app.auth.issuer import issuer

SERVICES = "/api/v1/services"
DISCOVER = f"{SERVICES}/discover/user-service"


async def both(http: httpx2.AsyncClient) -> httpx2.Response:
    """The answer by the shortcut, which must be that of the route; retried while the service changes."""
    async with asyncio.timeout(20):
        while True:
            by_route = await http.get(DISCOVER, params={"healthy_only": "true"})
            by_shortcut = await http.get(DISCOVER)
            again = await http.get(DISCOVER, params={"healthy_only": "true"})
            if by_route.content == again.content:
                break
    same = [name for name in by_route.headers if name != "x-request-id"]
    assert {name: by_shortcut.headers[name] for name in same} == {name: by_route.headers[name] for name in same}
    assert (by_shortcut.status_code, by_shortcut.json()) == (by_route.status_code, by_route.json())
    return by_shortcut


async def test_it_answers_as_the_route_does(http: httpx2.AsyncClient) -> None:
    await http.post(f"{SERVICES}/register", json=wish())
    assert len((await both(http)).json()["services"]) == 1
    for change in (
        http.post(f"{SERVICES}/register", json=wish(service_id="second")),
        http.put(f"{SERVICES}/second/heartbeat", json={"status": "fail"}),
        http.put(f"{SERVICES}/second/maintenance", json={"enabled": True}),
        http.delete(f"{SERVICES}/second"),
    ):
        assert (await change).status_code < 300
        await both(http)


async def test_it_is_used(http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await http.post(f"{SERVICES}/register", json=wish())
    await http.get(DISCOVER)  # from here on the service is watched
    monkeypatch.setattr("app.api.services._snapshot", None)  # the route cannot answer any more
    assert (await http.get(DISCOVER)).status_code == 200


async def test_it_knows_etags(http: httpx2.AsyncClient) -> None:
    await http.post(f"{SERVICES}/register", json=wish())
    first = await both(http)
    answer = await http.get(DISCOVER, headers={"If-None-Match": first.headers["etag"]})
    assert (answer.status_code, answer.content) == (304, b"")


async def test_it_wants_a_token_and_its_scope() -> None:
    with issuer() as tokens:
        async with api(auth={"issuers": [tokens.settings.model_dump()]}) as world:
            scopes = " ".join(SCOPES)
            async with world.client(token=tokens.token(scope=scopes, svc="user-service")) as http:
                await http.post(f"{SERVICES}/register", json=wish())
                assert (await http.get(DISCOVER)).status_code == 200
            async with world.client() as nobody, world.client(token=tokens.token(scope="config:read")) as other:
                assert (await nobody.get(DISCOVER)).status_code == 401
                assert (await other.get(DISCOVER)).status_code == 403
                assert (await nobody.get(DISCOVER)).headers["content-type"] == "application/problem+json"


async def test_an_unknown_service_is_left_to_the_route(http: httpx2.AsyncClient) -> None:
    assert (await http.get(DISCOVER)).status_code == 404


def test_the_prefix_is_that_of_the_route() -> None:
    assert f"{SERVICES}/discover/" == shortcut.DISCOVER
