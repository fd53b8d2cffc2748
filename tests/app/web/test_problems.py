"""Whose fault is it? What the caller did wrong is 4xx; what the platform cannot do is 5xx and says nothing of the inside; nothing is unhandled."""

from __future__ import annotations

import aiohttp
import httpx2
import pytest
from fastapi import FastAPI, HTTPException

from groundwork import errors
from groundwork.consul import errors as consul
from groundwork.errors import PlatformError
from groundwork.testing.faults import Fault
from groundwork.testing.simulator import ConsulSimulator
from groundwork.web.problem import Problem, ProblemError, from_error, install
from tests.app.api.support import api, wish

SERVICES = "/api/v1/services"
CONFIG = "/api/v1/config"
INSIDE = "rpc error: /run/groundwork/consul/token at 10.244.0.9:8501"


async def answered(error: Exception) -> httpx2.Response:
    """What a service's client gets when a route raises `error`."""
    app = FastAPI()
    install(app)

    @app.get("/x")
    async def fails() -> None:
        raise error

    del fails
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        return await http.get("/x")


@pytest.mark.parametrize(
    "error",
    [
        errors.BackendRefused(INSIDE),
        errors.BackendUnavailable(INSIDE),
        errors.DeadlineExceeded(INSIDE),
        errors.UnreadableRecord(INSIDE),
        errors.PermissionDenied(INSIDE),
        errors.InvalidSettings(INSIDE),
        errors.StaleData(INSIDE),
        errors.PlatformError(INSIDE),
        errors.UnusableToken(INSIDE),
        consul.SessionUnknown(INSIDE),
        consul.TxnConflict((consul.OperationError(0, INSIDE),)),
        consul.FilteredByAccessList(INSIDE),
        aiohttp.ClientError(INSIDE),
        aiohttp.ClientPayloadError(INSIDE),
        TimeoutError(INSIDE),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_r59_the_platforms_faults_are_5xx_and_say_nothing_of_the_inside(error: Exception) -> None:
    answer = await answered(error)
    assert answer.status_code >= 500
    Problem.model_validate_json(answer.content)
    assert INSIDE not in answer.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("name: too long"), 400),
        (errors.InvalidConfig("a: not JSON"), 400),
        (errors.NotFound("no user 7"), 404),
        (errors.Conflict("exists"), 409),
        (errors.InstanceAmbiguous("say which"), 409),
        (errors.NotOwner("not yours"), 403),
        (errors.QuotaExceeded("200 are the most"), 403),
        (errors.PayloadTooLarge("too large"), 413),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PlatformError) else str(value),
)
async def test_r59_what_the_caller_did_wrong_is_4xx_and_says_what(error: PlatformError, status: int) -> None:
    answer = await answered(error)
    assert (answer.status_code, answer.json()["detail"]) == (status, str(error))


def test_r59_every_error_of_the_platform_has_an_answer() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PlatformError)]
    assert len(kinds) > 10
    assert all(400 <= from_error(kind("x")).status < 600 for kind in kinds)


@pytest.mark.parametrize(("status", "kind"), [(499, "client-error"), (418, "i'm-a-teapot"), (599, "server-error")])
async def test_r59_a_status_that_no_standard_names_is_a_problem_too(status: int, kind: str) -> None:
    answer = await answered(HTTPException(status))
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:platform:problem:{kind}")


async def test_r59_half_a_surrogate_pair_in_an_error_is_an_answer() -> None:
    answer = await answered(ProblemError(400, "validation", "No", "name \ud800 is bad"))
    assert (answer.status_code, answer.json()["detail"]) == (400, "name ? is bad")


@pytest.mark.parametrize("body", [b'{"\\ud800": 1}', b'{"tags": ["\\ud800"]}', b'{"service_id": "\\udfff"}'])
async def test_r59_half_a_surrogate_pair_in_a_body_is_the_callers_mistake(body: bytes) -> None:
    async with api() as world, world.client() as http:
        for method, path in (("POST", f"{SERVICES}/register"), ("PUT", f"{SERVICES}/x/heartbeat"), ("PUT", f"{SERVICES}/x/maintenance")):
            answer = await http.request(method, path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, answer.text


async def test_r59_a_secrets_name_with_half_a_surrogate_pair_is_refused() -> None:
    async with api() as world, world.client() as http:
        answer = await http.put(f"{CONFIG}/a/b", content=b'{"\\ud800password": "x"}', headers={"Content-Type": "application/json"})
        assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/nothing", f"{SERVICES}/", f"{SERVICES}/discover/none"])
async def test_r59_a_host_that_is_none_is_not_looked_at(path: str) -> None:
    async with api() as world, world.client() as http:
        answer = await http.get(path, headers={"Host": "[::1"})
        assert answer.status_code == 404
        assert "location" not in answer.headers


FAULTS = {
    "refused": Fault(status=400, body=INSIDE.encode()),
    "broken": Fault(status=500, body=INSIDE.encode()),
    "forbidden": Fault(status=403, body=INSIDE.encode()),
    "too large": Fault(status=413, body=INSIDE.encode()),
    "not found": Fault(status=404, body=INSIDE.encode(), headers={"X-Consul-Index": None}),  # a proxy's
    "no leader": Fault.no_leader(),
    "another shape": Fault(status=200, body=b'"' + INSIDE.encode() + b'"'),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_r59_whatever_consul_answers_a_good_request_gets_5xx_and_none_of_consuls_words(fault: str) -> None:
    async with ConsulSimulator() as simulator, api(consul=simulator.settings.model_dump()) as world, world.client() as http:
        with simulator.fault(FAULTS[fault]):
            answers = [
                await http.post(f"{SERVICES}/register", json=wish()),
                await http.put(f"{SERVICES}/x/heartbeat", params={"service_name": "user-service"}),
                await http.delete(f"{SERVICES}/x"),
                await http.get(SERVICES),
                await http.get(f"{SERVICES}/discover/user-service"),
                await http.get(f"{CONFIG}/a/b"),
                await http.put(f"{CONFIG}/a/b", json=1),
                await http.delete(f"{CONFIG}/a/b", headers={"If-Match": '"7"'}),
            ]
        assert [(one.request.method, one.request.url.path, one.status_code) for one in answers if one.status_code < 500] == []
        assert [one.text for one in answers if INSIDE in one.text] == []
