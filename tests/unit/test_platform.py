"""What must hold for every resource of every stack, seen on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
from pydantic import SecretStr

from components.lib import labels
from components.lib.contracts import ApiServer, ClusterPods, Transport, Workload
from stacks import platform
from stacks.catalog import ENGINES
from stacks.cluster.facts import Address, NamespaceFacts, assumed
from stacks.plan import planned
from stacks.settings import StackSettings
from stacks.stackfile import read
from tests.unit.recording import Graph
from tests.unit.rendered import SHIPPED, containers, pods, shipped


@pytest.fixture(params=SHIPPED)
def stack(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture
def settings(stack: str) -> StackSettings:
    return read(stack)


@pytest.fixture
def plan(stack: str) -> tuple[Graph, platform.Built]:
    return shipped(stack)


@pytest.fixture
def graph(plan: tuple[Graph, platform.Built]) -> Graph:
    return plan[0]


@pytest.fixture
def built(plan: tuple[Graph, platform.Built]) -> platform.Built:
    return plan[1]


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
    for pod in pods(graph):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True, pod
        assert min(security["runAsUser"], security["runAsGroup"]) >= 100, pod
        assert security["fsGroup"] == security["runAsGroup"], pod  # else nobody in it could write its volume or read its secrets
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        assert pod.spec["automountServiceAccountToken"] is False, pod
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod


def test_no_container_takes_more_than_it_says(graph: Graph) -> None:
    for pod in pods(graph):
        for container in containers(pod):
            asked, limit = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} == asked.keys() == limit.keys(), pod
            assert (asked["memory"], asked["ephemeral-storage"]) == (limit["memory"], limit["ephemeral-storage"]), pod


def test_no_pod_reaches_into_its_node(graph: Graph) -> None:
    for pod in pods(graph):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod
        assert [v["name"] for v in pod.spec["volumes"] if "hostPath" in v] == [], pod


def test_every_secret_that_is_mounted_is_for_the_pod_s_group_alone(graph: Graph) -> None:
    for pod in pods(graph):
        modes = [volume[kind]["defaultMode"] for volume in pod.spec["volumes"] for kind in ("secret", "projected") if kind in volume]
        assert set(modes) == {0o440}, pod


def test_no_variable_comes_from_a_secret_or_holds_one(graph: Graph) -> None:
    for pod in pods(graph):
        for container in containers(pod):
            assert "envFrom" not in container, pod
            assert "secretKeyRef" not in json.dumps(container.get("env", [])), pod


def test_no_token_without_an_audience_reaches_further_than_the_keys_of_the_issuer(graph: Graph) -> None:
    for pod in pods(graph):
        projections = [s for v in pod.spec["volumes"] for s in v.get("projected", {}).get("sources", []) if "serviceAccountToken" in s]
        tokens = [projection["serviceAccountToken"] for projection in projections]
        assert {token.get("audience") for token in tokens if token["path"] != "cluster/token"} <= {"groundwork"}, pod
        assert all(600 <= token["expirationSeconds"] <= 3600 for token in tokens), pod


def test_every_pod_runs_as_the_service_account_of_its_workload(graph: Graph) -> None:
    accounts = {(a["metadata.namespace"], a.object_name) for a in graph.of_type("ServiceAccount")}
    for pod in pods(graph):
        assert pod.spec["serviceAccountName"] == pod.name, pod
        assert (pod.namespace, pod.name) in accounts, pod
    assert all(a["automountServiceAccountToken"] is False for a in graph.of_type("ServiceAccount"))


def test_every_long_running_pod_has_three_probes(graph: Graph) -> None:
    for pod in pods(graph):
        if pod.kind in {"StatefulSet", "Deployment"}:
            (container,) = pod.spec["containers"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), pod


def test_alive_is_never_asked_where_ready_is(graph: Graph) -> None:
    for deployment in graph.of_type("Deployment"):
        container = deployment["spec.template.spec.containers.0"]
        paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness", "startup")}
        assert paths == {"liveness": "/health/live", "readiness": "/health/ready", "startup": "/health/started"}, deployment.name


def test_an_eviction_never_takes_the_only_pod_into_account(graph: Graph) -> None:
    replicas = {r.object_name: r["spec.replicas"] for kind in ("StatefulSet", "Deployment") for r in graph.of_type(kind)}
    budgets = {b.object_name: b for b in graph.of_type("PodDisruptionBudget")}
    assert set(budgets) == {name for name, count in replicas.items() if count > 1}
    for name, budget in budgets.items():
        assert budget["spec.maxUnavailable"] == 1
        assert budget["spec.selector.matchLabels"][labels.NAME] == name
        assert budget["spec.unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_every_object_carries_the_labels(graph: Graph, stack: str) -> None:
    for resource in graph.kubernetes():
        found = resource["metadata.labels"]
        assert {labels.NAME, labels.INSTANCE, labels.PART_OF, labels.MANAGED_BY} <= found.keys(), resource.name
        assert found[labels.INSTANCE] == stack, resource.name


def test_every_object_has_a_name_of_its_own_choosing(graph: Graph) -> None:
    assert [r.name for r in graph.kubernetes() if r.object_name is None] == []


def test_nothing_can_be_reached_from_outside_unless_operators_are_named(built: platform.Built) -> None:
    assert [edge for edge in built.edges if edge.client.name == "operators"] == []


def test_whoever_calls_anybody_may_look_up_names_by_both_protocols(built: platform.Built) -> None:
    look_ups: dict[str, set[tuple[str, int, str]]] = {}
    for edge in built.edges:
        if isinstance(edge.client, Workload):
            look_ups.setdefault(edge.client.name, set())
            if isinstance(edge.server, ClusterPods):
                look_ups[edge.client.name].add((edge.server.name, edge.port, edge.protocol.value))
    assert look_ups
    assert {name: found for name, found in look_ups.items() if found != {("dns", 53, "TCP"), ("dns", 53, "UDP")}} == {}


def test_the_named_operators_reach_every_service_and_engine_and_nobody_else_does() -> None:
    stack, settings = "prod", read("prod")
    cluster = settings.cluster.model_copy(update={"operator_cidrs": ("10.1.0.0/16",)})
    graph, _ = planned(stack, settings.model_copy(update={"cluster": cluster}))
    reached: dict[str, set[int]] = {}
    for policy in graph.of_type("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            if any("ipBlock" in peer for peer in rule["from"]):
                assert rule["from"] == [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
                reached[str(policy.object_name)] = {port["port"] for port in rule["ports"]}
    services = {"registry": 8000, "config": 8000} | {name: entry.port for name, entry in settings.services.items()}
    engines = {kind: {port["port"] for port in graph.one("Service", kind)["spec.ports"]} for kind in ENGINES}
    assert engines["rabbitmq"] == {5671, 15671}
    assert reached == engines | {name: {port} for name, port in services.items()}


def test_a_job_that_failed_is_replaced_by_the_next_up(graph: Graph) -> None:
    assert [j.name for j in graph.of_type("Job") if j["metadata"].get("annotations", {}).get("pulumi.com/replaceUnready") != "true"] == []


def test_dev_and_prod_have_the_same_components() -> None:
    def components(stack: str) -> set[tuple[str, str]]:
        return {(c.type, c.name) for c in shipped(stack)[0].components()}

    image = {("groundwork:app:Image", "runtime-image")}  # production deploys what another stack has built
    assert components("dev") - image == components("prod")


KEPT = {"Namespace", "PersistentVolumeClaim"}


def test_a_destroy_leaves_the_data_of_production_and_what_opens_it() -> None:
    graph, _ = shipped("prod")
    data = [r for r in graph.kubernetes() if r.type.rpartition(":")[2] in KEPT]
    opening = [r for r in graph.of_type("kubernetes:core/v1:Secret") if r["metadata.labels"].get(labels.KEEP) == "true"]
    assert len(opening) == len(ENGINES)
    assert [r.name for r in graph.resources if r.retain] == [r.name for r in graph.resources if r in data or r in opening]


def test_nothing_else_is_left_behind() -> None:
    graph, _ = shipped("dev")
    assert [r.name for r in graph.resources if r.retain or r.protect] == []


def test_three_consul_servers_of_production_never_share_a_node() -> None:
    graph, _ = shipped("prod")
    consul = graph.one("StatefulSet", "consul")
    assert consul["spec.replicas"] == 3
    spread = {c["topologyKey"]: c["whenUnsatisfiable"] for c in consul["spec.template.spec.topologySpreadConstraints"]}
    assert spread["kubernetes.io/hostname"] == "DoNotSchedule"


def test_the_image_that_is_built_is_deployed_by_digest() -> None:
    graph, _ = shipped("dev")
    assert read("dev").images.build
    built = [c["image"] for pod in pods(graph) for c in containers(pod) if c["image"].startswith("registry.example.com/groundwork/runtime")]
    assert built
    assert [image for image in built if not re.fullmatch(r"[^@]+:[^@:]+@sha256:[0-9a-f]{64}", image)] == []


def test_a_cluster_is_known_by_its_uid_whatever_its_context_is_called() -> None:
    settings = read("dev")
    renamed = settings.cluster.model_copy(update={"context": "another-name"})
    graph, _ = planned("dev", settings.model_copy(update={"cluster": renamed}), replace(assumed(), uid="uid-1"))
    (provider,) = graph.of_type("pulumi:providers:kubernetes")
    assert (provider["context"], provider["clusterIdentifier"]) == ("another-name", "uid-1")


def test_the_keys_of_tokens_are_fetched_from_the_api_server_s_own_addresses_and_ports() -> None:
    addresses = (Address("10.96.0.1", 443), Address("192.0.2.7", 6443), Address("192.0.2.8", 6443))
    _, built = planned("dev", read("dev"), replace(assumed(), api_servers=addresses))
    keys = {(e.client.name, e.server.cidrs, e.port, e.transport, e.required) for e in built.edges if isinstance(e.server, ApiServer)}
    where = ((("10.96.0.1/32",), 443), (("192.0.2.7/32", "192.0.2.8/32"), 6443))
    services = ("registry", "config", *read("dev").services)
    assert keys == {(name, cidrs, port, Transport.OWN_TLS, False) for name in services for cidrs, port in where}


def test_every_pool_of_a_rolling_update_finds_its_connections() -> None:
    settings, (graph, _) = read("prod"), shipped("prod")
    config = graph.one("ConfigMap", "postgres-config")["data"]["postgresql.conf"]
    (taken,) = re.findall(r"^max_connections = (\d+)$", config, re.MULTILINE)
    services = [settings.services[name] for name in settings.users("postgres")]
    pools = sum(2 * entry.replicas * (entry.pool_size + 1) for entry in services)  # old pods and new ones, each with a health check beside its pool
    assert pools > 100  # more than a server takes that counts nothing
    assert int(taken) > pools


def test_cilium_is_told_of_the_api_server_in_its_own_words_and_nobody_else_is() -> None:
    services = {"registry", "config", *read("dev").services}
    for plugin, told in (("cilium", services), ("calico", set[str]())):
        graph, _ = planned("dev", read("dev"), replace(assumed(), network_plugin=plugin))
        assert {p["spec"]["endpointSelector"]["matchLabels"][labels.NAME] for p in graph.of_type("CiliumNetworkPolicy")} == told


def identity(namespace: NamespaceFacts | None) -> tuple[str, str]:
    """What the provider takes the cluster for, and what the namespace says of it."""
    graph, _ = planned("dev", read("dev"), replace(assumed(), uid="uid-1", namespace=namespace))
    (provider,) = graph.of_type("pulumi:providers:kubernetes")
    return provider["clusterIdentifier"], graph.of_type("kubernetes:core/v1:Namespace")[0]["metadata.annotations"][labels.CLUSTER]


def test_a_new_stack_knows_its_cluster_by_the_uid_and_writes_it_down() -> None:
    assert identity(None) == ("uid-1", "uid-1")


def test_a_stack_keeps_the_identity_that_it_has_written_down() -> None:
    assert identity(NamespaceFacts({}, terminating=False, annotations={labels.CLUSTER: "first"})) == ("first", "first")


def test_a_stack_of_version_0_1_keeps_the_identity_that_it_was_made_with() -> None:
    assert identity(NamespaceFacts({}, terminating=False)) == ("groundwork-dev/dev", "groundwork-dev/dev")


def test_what_the_cluster_still_has_is_used_again() -> None:
    kept = {"redis-secrets": {"admin": SecretStr("kept-admin-secret")}}
    graph, _ = planned("dev", read("dev"), replace(assumed(), kept=kept))
    assert graph.one("Secret", "redis-secrets")["stringData"]["admin"] == "kept-admin-secret"
    assert graph.one("Secret", "postgres-secrets")["stringData"]["admin"] == "generated-postgres-admin-"


def test_the_platform_s_services_have_the_scopes_of_a_service_account_and_the_operator_s_only_for_the_operator(graph: Graph) -> None:
    namespace = graph.of_type("kubernetes:core/v1:Namespace")[0].object_name
    for config_map in graph.of_type("ConfigMap"):
        if "settings.json" in config_map["data"]:
            (issuer,) = json.loads(config_map["data"]["settings.json"])["auth"]["issuers"]
            assert set(issuer["scopes"]) == {"registry:read", "registry:write", "config:read"}
            assert issuer["namespaces"] == [namespace]
            assert set(issuer["subject_scopes"]) == {f"system:serviceaccount:{namespace}:operator"}


def test_a_pull_secret_reaches_every_pod() -> None:
    stack, settings = "prod", read("prod")
    images = settings.images.model_copy(update={"pull_secret": SecretStr("{}")})
    graph, _ = planned(stack, settings.model_copy(update={"images": images}))
    assert graph.one("Secret", "image-pull").secret_paths == ("stringData",)
    assert [pod for pod in pods(graph) if pod.spec.get("imagePullSecrets") != [{"name": "image-pull"}]] == []
