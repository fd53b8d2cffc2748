"""What must hold for every resource of every stack, seen on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from pydantic import SecretStr

from components import labels, network
from components.lib.contracts import Workload
from stacks import platform
from stacks.plan import planned
from stacks.settings import StackSettings, read
from tests.unit.recording import Graph, Registered

WORKLOADS = ("StatefulSet", "Deployment", "Job", "CronJob")
PLAN: dict[str, tuple[Graph, platform.Built]] = {}


@pytest.fixture(params=["dev", "prod"])
def stack(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture
def settings(stack: str) -> StackSettings:
    return read(stack)


@pytest.fixture
def plan(stack: str, settings: StackSettings) -> tuple[Graph, platform.Built]:
    """The stack's graph, made once for all tests: it is only read."""
    if stack not in PLAN:
        PLAN[stack] = planned(stack, settings)
    return PLAN[stack]


@pytest.fixture
def graph(plan: tuple[Graph, platform.Built]) -> Graph:
    return plan[0]


@pytest.fixture
def built(plan: tuple[Graph, platform.Built]) -> platform.Built:
    return plan[1]


def pods(graph: Graph) -> Iterator[tuple[Registered, dict[str, Any]]]:
    """Every pod spec of the stack with the object it belongs to."""
    for kind in WORKLOADS:
        for resource in graph.of_type(kind):
            path = "spec.jobTemplate.spec.template.spec" if kind == "CronJob" else "spec.template.spec"
            yield resource, resource[path]


def leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a document with its dotted path."""
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for position, inner in enumerate(cast("list[object]", value)):
            yield from leaves(inner, f"{path}.{position}")
    elif isinstance(value, str):
        yield path, value


def test_every_component_registers_its_outputs(graph: Graph) -> None:
    assert {c.name for c in graph.components() if c.urn not in graph.finished} == set()


def test_every_object_has_a_component_as_its_parent(graph: Graph) -> None:
    components = {c.urn for c in graph.components()}
    orphans = {r.name for r in graph.resources if r.parent not in components and r not in graph.components()}
    assert orphans == {"kubernetes"}


def test_no_component_is_the_child_of_another_one(graph: Graph) -> None:
    components = {c.urn for c in graph.components()}
    assert [c.name for c in graph.components() if c.parent in components] == []


def test_every_object_goes_to_the_named_context(graph: Graph, settings: StackSettings) -> None:
    (provider,) = graph.of_type("pulumi:providers:kubernetes")
    assert provider.inputs["context"] == settings.cluster.context
    assert {r.name for r in graph.kubernetes() if not r.provider.startswith(provider.urn)} == set()


def test_nothing_of_the_kubeconfig_goes_into_the_state(graph: Graph) -> None:
    assert graph.of_type("pulumi:providers:kubernetes")[0].inputs["kubeconfig"] == ""


def test_a_secret_value_stands_in_secrets_only(graph: Graph) -> None:
    for resource in graph.kubernetes():
        allowed = resource.type == "kubernetes:core/v1:Secret"
        outside = [path for path in resource.secret_paths if not (allowed and path.split(".")[0] in {"data", "stringData"})]
        assert outside == [], f"{resource.type} {resource.name}"


def test_no_generated_value_stands_in_clear_where_its_mark_was_lost(graph: Graph) -> None:
    for resource in graph.kubernetes():
        if resource.type != "kubernetes:core/v1:Secret":
            found = [path for path, text in leaves(resource.inputs) if "generated-" in text or "private-" in text]
            assert found == [], f"{resource.type} {resource.name}"


def test_the_secret_tests_have_secrets_to_look_at(graph: Graph) -> None:
    values = [text for secret in graph.of_type("kubernetes:core/v1:Secret") for _, text in leaves(secret.inputs)]
    assert any("generated-" in text for text in values)
    assert any("private-" in text for text in values)


def test_no_output_is_secret_and_none_holds_a_generated_value(graph: Graph) -> None:
    assert graph.secret_outputs == []
    assert "generated-" not in json.dumps(graph.outputs)


def test_every_pod_is_safe(graph: Graph) -> None:
    for resource, pod in pods(graph):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, resource.name
        assert security["seccompProfile"]["type"] == "RuntimeDefault", resource.name
        assert pod["automountServiceAccountToken"] is False, resource.name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, resource.name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, resource.name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, resource.name
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"], resource.name


def test_no_pod_reaches_into_its_node(graph: Graph) -> None:
    for resource, pod in pods(graph):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), resource.name
        assert [v["name"] for v in pod.get("volumes", []) if "hostPath" in v] == [], resource.name


def test_every_long_running_pod_has_three_probes(graph: Graph) -> None:
    for kind in ("StatefulSet", "Deployment"):
        for resource in graph.of_type(kind):
            container = resource["spec.template.spec.containers.0"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), resource.name


def test_every_object_carries_the_labels(graph: Graph, stack: str) -> None:
    for resource in graph.kubernetes():
        found = resource["metadata.labels"]
        assert {labels.NAME, labels.INSTANCE, labels.PART_OF, labels.MANAGED_BY} <= found.keys(), resource.name
        assert found[labels.INSTANCE] == stack, resource.name


def test_every_object_has_a_name_of_its_own_choosing(graph: Graph) -> None:
    assert [r.name for r in graph.kubernetes() if r.object_name is None] == []


def test_every_workload_has_a_policy_and_every_policy_a_workload(graph: Graph) -> None:
    selected = {p["spec.podSelector"].get("matchLabels", {}).get(labels.NAME) for p in graph.of_type("NetworkPolicy")} - {None}
    running = set[str]()
    for resource, _ in pods(graph):
        path = "spec.jobTemplate.spec.template.metadata.labels" if resource.type.endswith("CronJob") else "spec.template.metadata.labels"
        running.add(resource[path][labels.NAME])
    assert selected == running


def test_every_edge_between_workloads_is_allowed_at_both_ends(graph: Graph, built: platform.Built) -> None:
    for edge in built.edges:
        if isinstance(edge.client, Workload) and isinstance(edge.server, Workload):
            out = graph.one("NetworkPolicy", edge.client.name)["spec.egress"]
            into = graph.one("NetworkPolicy", edge.server.name)["spec.ingress"]
            assert any(allows(rule, "to", edge.server.name, edge.port) for rule in out), edge
            assert any(allows(rule, "from", edge.client.name, edge.port) for rule in into), edge


def allows(rule: dict[str, Any], direction: str, name: str, port: int) -> bool:
    """Whether a rule allows pods of that name on that port."""
    peers = [peer.get("podSelector", {}).get("matchLabels", {}).get(labels.NAME) for peer in rule[direction]]
    return name in peers and port in [allowed["port"] for allowed in rule["ports"]]


def test_no_policy_rule_is_open_to_everybody(graph: Graph) -> None:
    for policy in graph.of_type("NetworkPolicy"):
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                assert rule.get(key), f"{policy.name} {direction}"
                assert rule.get("ports"), f"{policy.name} {direction}"


def test_nothing_can_be_reached_from_outside_unless_operators_are_named(built: platform.Built) -> None:
    assert [edge for edge in built.edges if edge.client.name == "operators"] == []


def test_every_engine_is_reached_by_tls_only(built: platform.Built) -> None:
    engines = [edge for edge in built.edges if edge.server.name in platform.ENGINES and edge.client != edge.server]
    assert engines
    assert [edge for edge in engines if not edge.tls] == []


def test_the_quota_holds_all_pods_of_the_stack(graph: Graph) -> None:
    hard = graph.one("ResourceQuota", "platform")["spec.hard"]
    replicas = sum(int(r["spec"].get("replicas", 1)) for kind in ("StatefulSet", "Deployment", "Job") for r in graph.of_type(kind))
    assert int(hard["pods"]) >= replicas + len(graph.of_type("Deployment")) + len(graph.of_type("CronJob"))


def test_the_largest_container_is_within_the_limit_range(graph: Graph) -> None:
    limit = graph.one("LimitRange", "platform")["spec.limits.0.max"]
    for resource, pod in pods(graph):
        for container in pod["containers"]:
            assert int(container["resources"]["limits"]["memory"][:-2]) <= int(limit["memory"][:-2]), resource.name
            assert int(container["resources"]["limits"]["cpu"][:-1]) <= int(limit["cpu"][:-1]), resource.name


def test_a_job_that_failed_is_replaced_by_the_next_up(graph: Graph) -> None:
    assert [j.name for j in graph.of_type("Job") if j["metadata"].get("annotations", {}).get("pulumi.com/replaceUnready") != "true"] == []


def test_no_credential_is_shared_by_two_workloads(graph: Graph) -> None:
    mounted: dict[str, set[str]] = {}
    for resource, pod in pods(graph):
        if resource.type.endswith(("Deployment", "StatefulSet")):
            for path, text in leaves(pod.get("volumes", [])):
                if path.endswith((".secret.name", ".secret.secretName")):
                    mounted.setdefault(text, set()).add(resource.name)
    assert {name: users for name, users in mounted.items() if len(users) > 1} == {}


def test_dev_and_prod_have_the_same_components() -> None:
    def components(stack: str) -> set[tuple[str, str]]:
        return {(c.type, c.name) for c in planned(stack, read(stack))[0].components()}

    assert components("dev") == components("prod")


def test_production_protects_its_data() -> None:
    graph, _ = planned("prod", read("prod"))
    stateful = [*graph.of_type("kubernetes:apps/v1:StatefulSet"), *graph.of_type("kubernetes:core/v1:Namespace")]
    unprotected = [r.name for r in stateful if not r.protect]
    assert unprotected == []


def test_development_does_not() -> None:
    graph, _ = planned("dev", read("dev"))
    assert [r.name for r in graph.resources if r.protect] == []


def test_a_pull_secret_reaches_every_pod(settings: StackSettings, stack: str) -> None:
    images = settings.images.model_copy(update={"pull_secret": SecretStr("{}")})
    graph, _ = planned(stack, settings.model_copy(update={"images": images}))
    assert graph.one("Secret", "image-pull").secret_paths == ("stringData",)
    assert {resource.name for resource, pod in pods(graph) if pod.get("imagePullSecrets") != [{"name": "image-pull"}]} == set()


def test_workloads_of_the_policies_are_those_of_the_edges(graph: Graph, built: platform.Built) -> None:
    assert {p.object_name for p in graph.of_type("NetworkPolicy")} == {*network.workloads(built.edges), "default-deny"}
