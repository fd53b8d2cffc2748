"""One request through the services proves the whole platform."""

# pyright: basic, reportOptionalMemberAccess=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import uuid

import pytest

from tests.e2e.cluster import Platform, eventually
from tests.e2e.demo import documents


def test_a_document_is_stored_indexed_and_read_back_from_the_cache(platform: Platform) -> None:
    work = documents(platform)
    word = f"w{uuid.uuid4().hex}"
    identity = work.create(word)
    assert identity is not None
    eventually("the document is indexed and found", lambda: work.kept(identity, word) or None)
    with platform.http("document-service") as session:
        assert session.get(f"/api/v1/documents/{identity}").json()["source"] == "cache"


def test_a_document_of_nobody_is_refused(platform: Platform) -> None:
    with platform.http("document-service") as session:
        answer = session.post("/api/v1/documents", json={"title": "t", "body": "b", "author_id": str(uuid.uuid4())})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["registry", "config", "user-service", "document-service"])
def test_every_service_is_alive_ready_and_started(platform: Platform, name: str) -> None:
    with platform.http(name) as session:
        for question in ("live", "ready", "started"):
            assert session.get(f"/health/{question}").status_code == 200, question


@pytest.mark.parametrize("name", ["user-service", "document-service"])
def test_every_service_has_registered_itself(platform: Platform, name: str) -> None:
    token = platform.service_account_token("user-service")
    with platform.http("registry") as session:
        answer = session.get(f"/api/v1/services/discover/{name}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    addresses = {instance["address"] for instance in answer.json()["services"]}
    assert addresses == {pod.status.pod_ip for pod in platform.pods(name)}


def test_a_service_may_not_register_under_another_ones_name(platform: Platform) -> None:
    token = platform.service_account_token("user-service")
    body = {"service_name": "document-service", "service_id": "intruder-1", "address": platform.pods("user-service")[0].status.pod_ip, "port": 8000}
    with platform.http("registry") as session:
        answer = session.post("/api/v1/services/register", json=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403


def test_a_token_for_another_audience_is_refused(platform: Platform) -> None:
    token = platform.service_account_token("user-service", audience="somebody-else")
    with platform.http("registry") as session:
        assert session.get("/api/v1/services", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_configuration_changed_by_an_operator_is_live_without_a_restart(platform: Platform) -> None:
    work = documents(platform)
    headers = {"Authorization": f"Bearer {platform.service_account_token('operator')}"}
    running = platform.uids("document-service")
    with platform.http("config") as config, platform.http("document-service") as session:
        answer = config.put("/api/v1/config/document-service/limits", json={"max_body_chars": 5}, headers=headers)
        assert answer.status_code == 201, answer.text

        def refused() -> bool | None:
            body = {"title": "t", "body": "much too long", "author_id": work.author}
            return session.post("/api/v1/documents", json=body).status_code == 413 or None

        eventually("the new limit counts", refused)
        removal = {"Authorization": headers["Authorization"], "If-Match": answer.headers["etag"]}
        assert config.delete("/api/v1/config/document-service/limits", headers=removal).status_code == 204
        eventually("the old limit counts again", lambda: work.create("longer than five") is not None or None)
    assert platform.uids("document-service") == running


def test_a_service_may_read_configuration_but_not_write_it(platform: Platform) -> None:
    headers = {"Authorization": f"Bearer {platform.service_account_token('document-service')}"}
    with platform.http("config") as config:
        assert config.put("/api/v1/config/document-service/limits", json={"max_body_chars": 5}, headers=headers).status_code == 403
