"""What a caller may not do: tokens, scopes, owners, sizes, rates, and what an answer never says. Items 37, 42 to 46."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator

import httpx2
import pytest
import pytest_asyncio

from app.main import check
from groundwork.errors import InvalidSettings
from groundwork.settings import Settings
from groundwork.web.guard import MAX_SUBJECTS, RateLimit
from tests.app.api.support import POD, SCOPES, Api, api, wish
from tests.app.auth.issuer import Issuer, issuer

SERVICES = "/api/v1/services"
REGISTER = f"{SERVICES}/register"
EVERY_ROUTE = [
    ("POST", REGISTER),
    ("PUT", f"{SERVICES}/x/heartbeat"),
    ("PUT", f"{SERVICES}/x/maintenance"),
    ("DELETE", f"{SERVICES}/x"),
    ("GET", SERVICES),
    ("GET", f"{SERVICES}/discover/x"),
    ("GET", f"{SERVICES}/discover/x/select"),
    ("GET", f"{SERVICES}/discover/x/events"),
    ("GET", "/api/v1/config/a"),
    ("PUT", "/api/v1/config/a"),
    ("DELETE", "/api/v1/config/a"),
    ("GET", "/api/v1/config/events"),
]


@pytest.fixture(scope="module")
def tokens() -> Generator[Issuer]:
    with issuer() as one:
        yield one


@pytest_asyncio.fixture
async def guarded(tokens: Issuer) -> AsyncGenerator[Api]:
    """Both APIs for the ServiceAccounts of an issuer."""
    async with api(auth={"issuers": [tokens.settings.model_copy(update={"scopes": SCOPES}).model_dump()]}, rate_limit_per_second=5.0) as one:
        yield one


@pytest_asyncio.fixture
async def strict(tokens: Issuer) -> AsyncGenerator[Api]:
    """Both APIs for an issuer whose tokens must bring their own scopes."""
    async with api(auth={"issuers": [tokens.settings.model_dump()]}) as one:
        yield one


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_every_route_wants_a_token(guarded: Api, method: str, path: str) -> None:
    async with guarded.client() as http:
        answer = await http.request(method, path, json={})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "bearer nonsense", "Bearer a.b.c", "Token x"])
async def test_what_is_no_good_token_is_401(guarded: Api, header: str) -> None:
    async with guarded.client() as http:
        answer = await http.get(SERVICES, headers={"Authorization": header})
    assert answer.status_code == 401


async def test_a_token_in_the_query_is_not_looked_at(guarded: Api, tokens: Issuer) -> None:
    async with guarded.client() as http:
        assert (await http.get(SERVICES, params={"access_token": tokens.account("a")})).status_code == 401


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_r41_a_missing_scope_is_403_and_named(strict: Api, tokens: Issuer, method: str, path: str) -> None:
    async with strict.client(token=tokens.token(scope="something:else")) as http:
        answer = await http.request(method, path, json=wish())
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:platform:problem:permission-denied")
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


async def test_a_reader_may_not_write(strict: Api, tokens: Issuer) -> None:
    async with strict.client(token=tokens.token(scope="registry:read config:read")) as http:
        assert (await http.get(SERVICES)).status_code == 200
        assert (await http.post(REGISTER, json=wish())).status_code == 403
        assert (await http.put("/api/v1/config/a", json=1)).status_code == 403


async def test_r43_only_the_owner_registers_renews_and_removes(guarded: Api, tokens: Issuer) -> None:
    async with guarded.client(token=tokens.account("user-service")) as owner, guarded.client(token=tokens.account("other")) as other:
        assert (await other.post(REGISTER, json=wish())).status_code == 403
        assert (await owner.post(REGISTER, json=wish())).status_code == 201
        for query, answered in (({}, (404, "No such instance")), ({"service_name": "user-service"}, (403, "Not the owner"))):
            for answer in (
                await other.put(f"{SERVICES}/user-service-001/heartbeat", params=query),
                await other.put(f"{SERVICES}/user-service-001/maintenance", params=query, json={"enabled": True}),
                await other.delete(f"{SERVICES}/user-service-001", params=query),
            ):
                assert (answer.status_code, answer.json()["title"]) == answered
        assert (await owner.put(f"{SERVICES}/user-service-001/heartbeat")).status_code == 204


async def test_r51_another_services_id_is_free(guarded: Api, tokens: Issuer) -> None:
    async with guarded.client(token=tokens.account("user-service")) as owner, guarded.client(token=tokens.account("other")) as other:
        assert (await owner.post(REGISTER, json=wish())).status_code == 201
        assert (await other.post(REGISTER, json=wish("other"))).status_code == 201
        assert (await other.delete(f"{SERVICES}/user-service-001")).status_code == 204
        assert [one["service_name"] for one in (await owner.get(SERVICES)).json()["services"]] == ["user-service"]


async def test_r51_of_two_instances_with_one_id_an_admin_must_name_the_service(guarded: Api, tokens: Issuer) -> None:
    for service in ("user-service", "other"):
        async with guarded.client(token=tokens.account(service)) as owner:
            assert (await owner.post(REGISTER, json=wish(service))).status_code == 201
    async with guarded.client(token=tokens.token(scope="registry:admin")) as admin:
        unclear = await admin.delete(f"{SERVICES}/user-service-001")
        assert (unclear.status_code, unclear.json()["type"]) == (409, "urn:platform:problem:instance-ambiguous")
        assert (await admin.delete(f"{SERVICES}/user-service-001", params={"service_name": "other"})).status_code == 204


@pytest.mark.parametrize(("scope", "answered"), [("registry:write", 400), ("registry:write registry:admin", 201)])
async def test_r39_only_an_admin_has_another_address_checked(strict: Api, tokens: Issuer, scope: str, answered: int) -> None:
    body = wish(check={"type": "http"}, address="10.244.1.8")
    async with strict.client(token=tokens.token(scope=scope, svc="user-service")) as http:
        assert (await http.post(REGISTER, json=body)).status_code == answered


async def test_r52_as_many_instances_as_one_caller_may_have(tokens: Issuer) -> None:
    auth = {"issuers": [tokens.settings.model_copy(update={"scopes": SCOPES}).model_dump()]}
    async with api(auth=auth, max_registrations=2) as world, world.client(token=tokens.account("user-service")) as http:
        answers = [await http.post(REGISTER, json=wish(service_id=f"id-{number}")) for number in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 403]
        assert answers[2].json()["type"] == "urn:platform:problem:quota-exceeded"


async def test_r43_a_service_writes_its_own_configuration_and_nobody_elses(strict: Api, tokens: Issuer) -> None:
    own, foreign, shared = (f"/api/v1/config/{key}" for key in ("user-service,prod/limits", "document-service/limits", "application/limits"))
    mine = tokens.token(scope="config:own", sub="system:serviceaccount:demo:user-service")
    async with strict.client(token=mine) as service, strict.client(token=tokens.token(scope="config:write")) as operator:
        assert (await service.put(own, json=1)).status_code == 201
        for path in (foreign, shared):
            created = await operator.put(path, json=1)
            assert created.status_code == 201
            for answer in (
                await service.put(path, json=2, headers={"If-Match": created.headers["etag"]}),
                await service.delete(path, headers={"If-Match": created.headers["etag"]}),
            ):
                assert (answer.status_code, answer.json()["title"]) == (403, "Not the owner")
        assert (await service.delete(own, headers={"If-Match": "*"})).status_code == 204


async def test_r44_a_caller_is_slowed_down_and_nobody_else(guarded: Api, tokens: Issuer) -> None:
    async with guarded.client(token=tokens.account("loud")) as loud, guarded.client(token=tokens.account("calm")) as calm:
        answers = [await loud.get(SERVICES) for _ in range(40)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].json()["type"] == "urn:platform:problem:rate-limited"
        assert int(refused[0].headers["retry-after"]) >= 1
        assert (await calm.get(SERVICES)).status_code == 200


async def test_r44_heartbeats_never_starve(guarded: Api, tokens: Issuer) -> None:
    async with guarded.client(token=tokens.account("user-service")) as http:
        assert (await http.post(REGISTER, json=wish())).status_code == 201
        while (await http.get(SERVICES)).status_code != 429:
            pass
        assert (await http.put(f"{SERVICES}/user-service-001/heartbeat")).status_code == 204


def test_r44_a_bucket_refills_with_time() -> None:
    limit = RateLimit(rate=10)
    assert [limit.take("a", "default", 0.0) for _ in range(20)] == [0.0] * 20
    assert limit.take("a", "default", 0.0) == pytest.approx(0.1)
    assert limit.take("a", "default", 0.1) == 0.0


def test_the_memory_of_callers_is_bounded() -> None:
    limit = RateLimit(rate=1)
    for number in range(MAX_SUBJECTS + 100):
        limit.take(f"caller-{number}", "default", 0.0)
    assert len(limit._buckets) == MAX_SUBJECTS  # pyright: ignore[reportPrivateUsage] - the bound itself is what is tested


async def test_r42_a_body_over_the_limit_is_413_before_it_is_parsed(http: httpx2.AsyncClient) -> None:
    answer = await http.post(REGISTER, content=b"{" * (64 * 1024 + 1), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:platform:problem:payload-too-large")


async def test_r42_a_body_without_length_is_stopped_at_the_limit(http: httpx2.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * 1024 * 1024:
            sent += 16 * 1024
            yield b"x" * 16 * 1024

    answer = await http.post(REGISTER, content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert sent < 1024 * 1024


@pytest.mark.parametrize("length", ["99999999999999999999", "65537"])
async def test_r42_an_announced_length_is_enough(http: httpx2.AsyncClient, length: str) -> None:
    answer = await http.post(REGISTER, content=b"{}", headers={"Content-Type": "application/json", "Content-Length": length})
    assert answer.status_code == 413


async def test_r42_a_body_that_never_ends_is_408(world: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundwork.web.middleware.BODY_SECONDS", 0.05)
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope: dict[str, object] = {"type": "http", "method": "POST", "path": REGISTER, "query_string": b"", "headers": [], "client": (POD, 1)}
    async with asyncio.timeout(20):
        await world.app(scope, receive, send)  # pyright: ignore[reportArgumentType] - the shape that ASGI wants
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'"x"', b"{}"])
async def test_a_body_that_cannot_be_read_is_400(http: httpx2.AsyncClient, body: bytes) -> None:
    answer = await http.post(REGISTER, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:platform:problem:validation")


async def test_r45_no_cors_and_nothing_about_the_server(http: httpx2.AsyncClient) -> None:
    answer = await http.get(SERVICES, headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "server"]
    preflight = await http.options(SERVICES, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"})
    assert preflight.status_code == 405


async def test_r45_docs_are_for_development(tokens: Issuer) -> None:
    settings = {"auth": {"issuers": [tokens.settings.model_dump()]}, "consul": {"address": "http://127.0.0.1:1"}}
    async with api(profile="prod", **settings) as prod, api() as dev, prod.client() as closed, dev.client() as opened:
        for path in ("/docs", "/openapi.json"):
            assert (await closed.get(path)).status_code == 404
            assert (await opened.get(path)).status_code == 200
        assert (await closed.get("/redoc")).status_code == 404


async def test_r46_random_paths_add_no_series(world: Api, http: httpx2.AsyncClient) -> None:
    async def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in world.platform.metrics.text().decode().splitlines() if line.startswith("http_")}

    await http.get("/nothing/0")
    await http.get(f"{SERVICES}/discover/none-0")
    await http.request("BREW", "/pot-0")
    before = await series()
    for number in range(1, 50):
        await http.get(f"/nothing/{number}")
        await http.get(f"{SERVICES}/discover/none-{number}")
        await http.request(f"BREW{number}", f"/pot-{number}")
    assert await series() == before
    assert b"none-" not in world.platform.metrics.text()


async def test_unknown_paths_and_methods_are_problems(http: httpx2.AsyncClient) -> None:
    for answer, status in ((await http.get("/nothing"), 404), (await http.patch(SERVICES), 405)):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert set(answer.json()) >= {"type", "title", "status", "detail", "instance", "trace_id"}


async def test_a_trace_goes_through(http: httpx2.AsyncClient) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = await http.get("/nothing", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "mine"})
    assert (answer.json()["trace_id"], answer.headers["x-request-id"]) == (trace, "mine")
    forged = await http.get("/nothing", headers={"traceparent": "nonsense", "x-request-id": "a b\tc"})
    assert len(forged.json()["trace_id"]) == 32
    assert forged.headers["x-request-id"] != "a b\tc"


async def test_an_error_that_nobody_expected_is_a_problem_without_its_words(
    world: Api, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("postgresql://app:S3cret@db")

    monkeypatch.setattr(world.platform.registry.backend, "page", broken)
    answer = await http.get(SERVICES)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:platform:problem:internal")
    assert "S3cret" not in answer.text


PROD: dict[str, object] = {
    "service": "registry",
    "profile": "prod",
    "consul": {"address": "https://consul:8501"},
    "auth": {"issuers": [{"issuer": "i", "jwks_url": "https://i/jwks", "audience": "groundwork"}]},
}


def test_production_starts_with_an_issuer_and_consul() -> None:
    check("registry", Settings.model_validate(PROD))


@pytest.mark.parametrize(
    ("change", "named"), [({"auth": {}}, "auth.issuers"), ({"consul": None}, "consul")], ids=["without an issuer", "without Consul"]
)
def test_production_refuses(change: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidSettings, match=named):
        check("registry", Settings.model_validate(PROD | change))


def test_production_refuses_all_in_one() -> None:
    with pytest.raises(InvalidSettings, match="development"):
        check("all", Settings.model_validate(PROD))
