"""The served OpenAPI document is true: generated requests never break the service and get only what is described (item 38)."""

# The types of schemathesis are generic over what it does not say:
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownParameterType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeArgument=false

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.app.api.support import SCOPES
from tests.app.auth.issuer import Issuer, issuer
from tests.app.platform.world import Service, call, make, running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
HEALTH_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
STREAMS = ("/api/v1/services/discover/{service_name}/events", "/api/v1/config/events")  # they do not end


@dataclass
class World:
    service: Service
    tokens: Issuer

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens.token(scope='registry:admin')}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    with issuer() as tokens:
        auth = {"issuers": [tokens.settings.model_copy(update={"scopes": SCOPES}).model_dump(mode="json")]}
        one = make("app", ["app"], tmp_path_factory.mktemp("app"), {"auth": auth, "rate_limit_per_second": 1e6})
        with running(one):
            yield World(one, tokens)


@pytest.fixture(scope="module")
def document(world: World) -> dict[str, object]:
    return call("GET", f"{world.service.url}/openapi.json").json()


def test_the_document_is_openapi_3_1_and_knows_no_422(document: dict[str, object]) -> None:
    assert document["openapi"] == "3.1.0"
    assert '"422"' not in json.dumps(document)
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_error_is_described_as_a_problem(document: dict[str, object]) -> None:
    paths = document["paths"]
    assert isinstance(paths, dict)
    wrong = [
        (path, method, code)
        for path, operations in paths.items()  # pyright: ignore[reportUnknownVariableType] - JSON
        for method, operation in operations.items()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        for code, answer in operation["responses"].items()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if str(code) >= "400" and not str(path).startswith("/health") and list(answer["content"]) != ["application/problem+json"]  # pyright: ignore[reportUnknownArgumentType]
    ]
    assert wrong == []


def generated(world: World, headers: dict[str, str], mode: GenerationMode, only: set[int] | None = None) -> None:
    """Requests made up from the document, for all operations that end: as it says (positive), or breaking it in some way (negative)."""
    schema = schemathesis.openapi.from_url(f"{world.service.url}/openapi.json").exclude(path=list(STREAMS))
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
            continue  # nothing to break

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=HEALTH_CHECKS, phases=[Phase.generate])
        def holds(case: schemathesis.Case) -> None:
            answer = case.call(headers=headers)
            case.validate_response(answer, checks=CHECKS)
            if only is not None:
                assert answer.status_code in only, (case.method, case.formatted_path, answer.status_code)
            if answer.status_code >= 400 and not case.path.startswith("/health"):
                assert answer.headers["content-type"] == ["application/problem+json"]

        holds()


MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.mark.parametrize("mode", MODES)
def test_r38_with_a_token(world: World, mode: GenerationMode) -> None:
    generated(world, world.headers, mode)


@pytest.mark.parametrize("mode", MODES)
def test_r38_without_a_token(world: World, mode: GenerationMode) -> None:
    """Nothing but health, refusals and what is checked before anybody asks who calls."""
    generated(world, {}, mode, only={200, 400, 401, 404, 405, 408, 413})


@given(body=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_r38_any_bytes_as_a_body_are_an_answer(world: World, body: bytes) -> None:
    request = urllib.request.Request(
        f"{world.service.url}/api/v1/services/register", body, {"Content-Type": "application/json", **world.headers}, method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as answer:
        assert answer.code == 400
        assert answer.headers["content-type"] == "application/problem+json"


def test_logs_hold_no_query_and_no_token(world: World) -> None:
    call("GET", f"{world.service.url}/api/v1/services?after=query-canary", headers=world.headers)
    log = Path(world.service.log).read_text()
    assert "/api/v1/services" in log
    assert "query-canary" not in log
    assert "eyJ" not in log
