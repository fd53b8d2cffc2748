"""What comes before what, and how much of it there may be: the quota counts every pod, and nothing is used before it is there."""

from __future__ import annotations

import pytest

from components.lib import labels
from stacks import platform
from stacks.catalog import ENGINES
from stacks.cluster.facts import assumed
from stacks.plan import planned
from stacks.recording import record
from stacks.stackfile import read
from tests.unit.components.test_quota import Hook
from tests.unit.recording import Graph, Registered
from tests.unit.rendered import SHIPPED, Pod, before, containers, pods, shipped


@pytest.fixture(params=SHIPPED)
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(stack: str) -> tuple[Graph, platform.Built]:
    return shipped(stack)


@pytest.fixture
def graph(plan: tuple[Graph, platform.Built]) -> Graph:
    return plan[0]


@pytest.fixture
def built(plan: tuple[Graph, platform.Built]) -> platform.Built:
    return plan[1]


def room(pod: Pod) -> int:
    """How many pods of one template there may be at a time."""
    match pod.kind:
        case "Deployment":
            return 2 * pod.replicas  # each new one may meet an old one that still finishes its requests
        case "StatefulSet":
            return pod.replicas
        case _:
            return 1


def quantity(text: str) -> int:
    """Millicores, MiB or GiB, as the components write them."""
    return int(text.rstrip("mMGi"))


def asked(pod: Pod, kind: str, resource: str) -> int:
    """What Kubernetes counts for one pod."""
    running = sum(quantity(c["resources"][kind][resource]) for c in pod.spec["containers"])
    starting = max((quantity(c["resources"][kind][resource]) for c in pod.spec.get("initContainers", [])), default=0)
    return max(running, starting)


def test_the_quota_is_exactly_what_all_pods_and_claims_may_ask_for(graph: Graph) -> None:
    hard = graph.one("ResourceQuota", "platform")["spec.hard"]
    every = list(pods(graph))
    assert int(hard["pods"]) == sum(room(pod) for pod in every)
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory", "ephemeral-storage"):
            together = sum(room(pod) * asked(pod, kind, resource) for pod in every)
            assert quantity(hard[f"{kind}.{resource}"]) == together, (kind, resource)
    claims = graph.of_type("PersistentVolumeClaim")
    assert int(hard["persistentvolumeclaims"]) == len(claims)
    assert quantity(hard["requests.storage"]) == sum(quantity(c["spec.resources.requests.storage"]) for c in claims)
    assert hard["services.nodeports"] == "0"


def test_the_largest_container_is_within_the_limit_range(graph: Graph) -> None:
    largest = graph.one("LimitRange", "platform")["spec.limits.0.max"]
    limits = [container["resources"]["limits"] for pod in pods(graph) for container in containers(pod)]
    assert quantity(largest["memory"]) == max(quantity(limit["memory"]) for limit in limits)
    assert quantity(largest["cpu"]) == max(quantity(limit["cpu"]) for limit in limits)


def test_there_is_room_and_a_fence_before_any_pod(graph: Graph) -> None:
    first = {"groundwork:kubernetes:Room", "groundwork:kubernetes:Network", "groundwork:kubernetes:Namespace"}
    needed = {r.urn for r in graph.kubernetes() if r.parent and component_type(graph, r) in first}
    assert needed
    for pod in pods(graph):
        if pod.kind in {"Deployment", "StatefulSet"}:
            assert needed <= before(graph, pod.resource), pod


def component_type(graph: Graph, resource: Registered) -> str:
    return next((c.type for c in graph.components() if c.urn == resource.parent), "")


def test_the_exact_quota_comes_after_all_pods(graph: Graph) -> None:
    workloads = {pod.resource.urn for pod in pods(graph)}
    for kind in ("ResourceQuota", "LimitRange"):
        assert workloads <= before(graph, graph.one(kind, "platform")), kind


def test_old_accounts_are_retired_after_every_service_has_rolled(graph: Graph) -> None:
    deployed = {r.urn for r in graph.of_type("Deployment")}
    retiring = [job for job in graph.of_type("Job") if job.name.endswith("-retire")]
    assert len(retiring) == len(ENGINES)
    for job in retiring:
        assert deployed <= before(graph, job), job.name


def test_a_service_comes_after_the_accounts_and_credentials_of_all_that_it_uses(graph: Graph, built: platform.Built) -> None:
    first = {job.name: job.urn for job in graph.of_type("Job")}
    for name, args in built.services.items():
        needed = {first[f"{use.kind}-accounts"] for use in args.uses} | {graph.one("Secret", use.credentials.secret).urn for use in args.uses}
        assert needed <= before(graph, graph.one("Deployment", name)), name


def test_a_service_rolls_when_its_credential_or_the_authorities_change() -> None:
    settings, (graph, _) = read("dev"), shipped("dev")

    def contents(graph: Graph) -> dict[str, str]:
        return {r.name: r["spec.template.metadata.annotations"][labels.CONTENT_HASH] for r in graph.of_type("Deployment")}

    rotated = contents(planned("dev", settings.model_copy(update={"rotation": settings.rotation + 1}))[0])
    certificates = settings.certificates.model_copy(update={"trusted": (1, 2)})
    trusting = contents(planned("dev", settings.model_copy(update={"certificates": certificates}))[0])
    for changed in (rotated, trusting):
        assert [name for name, content in contents(graph).items() if changed[name] == content] == []


def test_the_hook_that_raises_the_quota_is_bound_to_the_room_alone() -> None:
    graph = record(lambda: platform.build("dev", read("dev"), assumed(), raise_quota=Hook("raise-quota")))
    assert {(r.object_name, event) for r in graph.resources for event, _ in r.hooks} == {
        ("platform-demand", "before_create"),
        ("platform-demand", "before_update"),
    }
