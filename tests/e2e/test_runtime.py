"""The registry's two replicas, restarts and an outage of Consul, on the running platform under load."""

# pyright: basic, reportOptionalMemberAccess=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import quantiles

import httpx2
import pytest

from tests.e2e.cluster import Platform, eventually
from tests.e2e.demo import documents
from tests.e2e.load import Ask, load

pytestmark = pytest.mark.sandbox("it asks single pods by their address, and a forwarded port ends with its pod")

SERVICES = "/api/v1/services"
ROLLOUT_SECONDS = 180
OUTAGE_SECONDS = 180


def reader(platform: Platform) -> dict[str, str]:
    """Who asks the registry: user-service, which may read everything and register instances of itself."""
    return {"Authorization": f"Bearer {platform.service_account_token('user-service')}"}


def discovery(platform: Platform) -> Ask:
    """The question which instances user-service has."""
    headers = reader(platform)
    return lambda session: session.get(f"{SERVICES}/discover/user-service", headers=headers)


def replicas(platform: Platform, name: str) -> list[str]:
    """The base URL of each pod of a service."""
    return [f"http://{pod.status.pod_ip}:8000" for pod in platform.pods(name)]


def restart(platform: Platform, name: str) -> None:
    """What `kubectl rollout restart` does; returns once only new pods are there and ready."""
    stamp = {"kubectl.kubernetes.io/restartedAt": datetime.now(UTC).isoformat()}
    before = platform.uids(name)
    platform.apps.patch_namespaced_deployment(name, platform.namespace, {"spec": {"template": {"metadata": {"annotations": stamp}}}})

    def replaced() -> bool | None:
        now = {pod.metadata.uid for pod in platform.all_pods(name)}
        return (len(now) == len(before) and not now & before and platform.all_ready(name)) or None

    eventually(f"{name} runs on new pods alone", replaced, seconds=ROLLOUT_SECONDS)


def test_what_one_replica_registers_the_other_one_shows(platform: Platform, figures: Callable[[str], None]) -> None:
    headers = reader(platform)
    pod = platform.pods("user-service")[0]
    urls = replicas(platform, "registry")
    assert len(urls) == 2
    taken: list[float] = []
    with httpx2.Client(base_url=urls[0], headers=headers, timeout=10) as one, httpx2.Client(base_url=urls[1], headers=headers, timeout=10) as other:
        for _ in range(40):
            identity = f"visible-{uuid.uuid4()}"
            wish = {"service_name": "user-service", "service_id": identity, "address": pod.status.pod_ip, "port": 8000}

            def shown(identity: str = identity) -> bool | None:
                return identity in other.get(f"{SERVICES}/discover/user-service").raise_for_status().text or None

            began = time.monotonic()
            answer = one.post(f"{SERVICES}/register", json=wish)
            assert answer.status_code == 201, answer.text
            eventually("the other replica shows the instance", shown, seconds=10, pause=0.01)
            taken.append(time.monotonic() - began)
            assert one.delete(f"{SERVICES}/{identity}").status_code == 204
            eventually("the other replica forgets it", lambda shown=shown: not shown() or None, seconds=10, pause=0.05)
            time.sleep(0.2)  # asked at full speed, the one caller that this test is would be slowed down
    cuts = quantiles(taken, n=100)
    figures(
        f"register -> visible through the other replica, {len(taken)} times without a pause: median {cuts[49] * 1000:.0f} ms, "
        f"p90 {cuts[89] * 1000:.0f} ms, longest {max(taken) * 1000:.0f} ms (promised: 1000 ms)"
    )


@pytest.mark.parametrize("name", ["registry", "user-service", "document-service"])
def test_a_rolling_restart_fails_no_request(platform: Platform, name: str) -> None:
    work = documents(platform)
    discover = discovery(platform)

    def create(session: httpx2.Client) -> httpx2.Response:
        return session.post("/api/v1/documents", json={"title": "t", "body": "restarted under load", "author_id": work.author})

    outputs = platform.outputs.services
    with load(outputs["registry"], discover) as reads, load(outputs["document-service"], create) as writes:
        eventually("some answers before the restart", lambda: (len(reads.answers) > 20 and len(writes.answers) > 20) or None)
        restart(platform, name)
        after = len(writes.answers)
        eventually("some answers after it", lambda: len(writes.answers) > after + 20 or None)
    assert reads.failed == []
    assert writes.failed == []


def test_an_outage_of_consul_makes_answers_older_and_never_wrong(platform: Platform) -> None:
    discover = discovery(platform)
    right = {pod.status.pod_ip for pod in platform.pods("user-service")}
    urls = replicas(platform, "registry")

    with load(urls[0], discover, count=1) as one, load(urls[1], discover, count=1) as other:
        eventually("answers before the outage", lambda: (len(one.answers) > 20 and len(other.answers) > 20) or None)
        before = platform.uids("consul")
        platform.kill("consul")
        for side in (one, other):
            eventually("answers grow old", lambda side=side: side.answers[-1].json()["stale"] or None)

        eventually("consul is ready again", lambda: platform.replaced("consul", before) or None, seconds=OUTAGE_SECONDS)
        for side in (one, other):
            eventually("answers are current again", lambda side=side: not side.answers[-1].json()["stale"] or None, seconds=90)

    for side in (one, other):
        assert side.failed == []
        bodies = [answer.json() for answer in side.answers]
        assert [body for body in bodies if {instance["address"] for instance in body["services"]} != right] == []
        ages = [body["age_ms"] for body in bodies if body["stale"]]
        assert max(ages) > min(ages)
        assert all(body["age_ms"] == 0 for body in bodies if not body["stale"])
