"""A service gets its settings and secrets as files, in the form that the runtime reads, and nothing secret in its settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pulumi_kubernetes as k8s
import pytest

from components import consul, postgres, rabbitmq, redis, service
from components.lib.contracts import Edge, Placement, Transport
from components.lib.workload import Resources
from components.service import Call, Issuer, Service, ServiceArgs
from groundwork import settings as runtime
from tests.unit.components import samples
from tests.unit.recording import Graph, record

AT = Placement(stack="dev", namespace="groundwork-dev")
CLUSTER = Issuer(
    "https://kubernetes.default.svc.cluster.local",
    "https://kubernetes.default.svc/openid/v1/jwks",
    scopes=("registry:write",),
    namespaces=("groundwork-dev",),
    operator="system:serviceaccount:groundwork-dev:operator",
    operator_scopes=("config:write",),
)


def everything(*, replicas: int = 1) -> ServiceArgs:
    """A service that uses all there is."""
    return ServiceArgs(
        AT,
        image="localhost/runtime:1",
        command=("-m", "demo.document_service"),
        profile="prod",
        ca="groundwork-ca",
        replicas=replicas,
        uses=(
            postgres.use(samples.POSTGRES, samples.POSTGRES.clients[0], pool_size=8, required=True),
            redis.use(samples.REDIS, samples.REDIS.clients[0], key_prefix="orders:", required=False),
            rabbitmq.use(samples.RABBITMQ, samples.RABBITMQ.clients[0], required=True),
            consul.use(samples.CONSUL, samples.CONSUL.clients[0], required=False),
        ),
        calls=(Call(AT.workload("users"), 8080),),
        registry_url="http://registry.groundwork-dev.svc:8000",
        issuers=(CLUSTER,),
    )


def built(args: ServiceArgs) -> Graph:
    return record(lambda: Service("documents", args, provider=k8s.Provider("k8s", kubeconfig="", context="c")))


@pytest.fixture
def graph() -> Graph:
    return built(everything())


def test_the_runtime_reads_exactly_what_the_component_mounts(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.json"
    file.write_text(graph.one("ConfigMap", "documents-settings")["data"]["settings.json"])
    monkeypatch.setenv(runtime.SETTINGS_FILE_VARIABLE, str(file))
    read = runtime.load()
    assert read.service == "documents"
    assert read.postgres is not None
    assert (read.postgres.host, read.postgres.database, read.postgres.required) == ("postgres.groundwork-dev.svc", "orders", True)
    assert read.redis is not None
    assert (read.redis.key_prefix, read.redis.required) == ("orders:", False)
    assert read.rabbitmq is not None
    assert read.rabbitmq.vhost == "orders"
    assert read.consul is not None
    assert read.consul.address == "https://consul.groundwork-dev.svc:8501"
    assert read.registry is not None
    (issuer,) = read.auth.issuers
    assert (issuer.scopes, issuer.namespaces) == (("registry:write",), ("groundwork-dev",))
    assert issuer.subject_scopes == {"system:serviceaccount:groundwork-dev:operator": ("config:write",)}


def files(graph: Graph) -> set[str]:
    """Every path that the pod finds below /run/groundwork."""
    sources = cast("list[dict[str, Any]]", graph.one("Deployment", "documents")["spec.template.spec.volumes.0.projected.sources"])
    found: set[str] = set()
    for source in sources:
        ((_, projection),) = source.items()
        found |= {projection["path"]} if "path" in projection else {item["path"] for item in projection.get("items", [{"path": "settings.json"}])}
    return found


def test_every_file_that_the_settings_name_is_mounted(graph: Graph) -> None:
    named = set(json_paths(json.loads(graph.one("ConfigMap", "documents-settings")["data"]["settings.json"])))
    folders = {path.rpartition("/")[0] for path in files(graph)}
    assert named <= files(graph) | folders


def json_paths(value: object) -> list[str]:
    """The paths below /run/groundwork that stand in a document."""
    if isinstance(value, dict):
        return [path for inner in cast("dict[str, object]", value).values() for path in json_paths(inner)]
    if isinstance(value, list):
        return [path for inner in cast("list[object]", value) for path in json_paths(inner)]
    return [value.removeprefix("/run/groundwork/")] if isinstance(value, str) and value.startswith("/run/groundwork/") else []


def test_a_service_that_uses_nothing_mounts_no_credentials() -> None:
    graph = built(ServiceArgs(AT, "localhost/runtime:1", ("-m", "x"), "dev", "groundwork-ca"))
    assert files(graph) == {"settings.json", "ca.crt", "token"}


def test_alive_ready_and_started_are_three_questions(graph: Graph) -> None:
    container = graph.one("Deployment", "documents")["spec.template.spec.containers.0"]
    paths = [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    assert paths == ["/health/live", "/health/ready", "/health/started"]


def content(**changes: object) -> str:
    graph = built(replace(everything(), **changes))  # type: ignore[arg-type]
    return graph.one("Deployment", "documents")["spec.template.metadata.annotations"]["groundwork/content-hash"]


def test_new_credentials_roll_the_pods() -> None:
    assert content(rolled_by=("a", "b")) != content(rolled_by=("a", "c"))
    assert content(rolled_by=("a", "b")) == content(rolled_by=("a", "b"))


def test_new_settings_roll_the_pods() -> None:
    assert content(registry_url="http://one:8000") != content(registry_url="http://another:8000")


def sources(graph: Graph) -> list[dict[str, Any]]:
    volume = graph.one("Deployment", "documents")["spec.template.spec.volumes.0"]
    return cast("list[dict[str, Any]]", volume["projected"]["sources"])


def test_each_credential_lies_in_a_folder_of_its_engine_and_holds_the_client_s_files_alone(graph: Graph) -> None:
    mounted = {s["secret"]["name"]: {i["path"] for i in s["secret"]["items"]} for s in sources(graph) if "secret" in s}
    assert mounted == {
        "orders-postgres": {"postgres/username", "postgres/password"},
        "orders-redis": {"redis/username", "redis/password"},
        "orders-rabbitmq": {"rabbitmq/username", "rabbitmq/password"},
        "orders-consul": {"consul/token"},
    }


def test_what_is_mounted_is_for_the_service_s_group_alone(graph: Graph) -> None:
    volume = graph.one("Deployment", "documents")["spec.template.spec.volumes.0"]
    assert volume["projected"]["defaultMode"] == 0o440
    mounts = graph.one("Deployment", "documents")["spec.template.spec.containers.0.volumeMounts"]
    assert {m["mountPath"]: m["readOnly"] for m in mounts} == {"/run/groundwork": True, "/tmp": False}


def test_the_token_for_other_services_is_for_them_alone_and_for_an_hour(graph: Graph) -> None:
    tokens = {s["serviceAccountToken"]["path"]: s["serviceAccountToken"] for s in sources(graph) if "serviceAccountToken" in s}
    assert tokens["token"] == {"audience": "groundwork", "expirationSeconds": 3600, "path": "token"}


def test_a_token_for_the_api_server_is_there_for_keys_in_the_cluster_only(graph: Graph) -> None:
    tokens = {s["serviceAccountToken"]["path"]: s["serviceAccountToken"] for s in sources(graph) if "serviceAccountToken" in s}
    assert tokens["cluster/token"] == {"expirationSeconds": 3600, "path": "cluster/token"}
    outside = built(replace(everything(), issuers=(replace(CLUSTER, in_cluster=False),)))
    assert "cluster/token" not in files(outside)
    settings = json.loads(outside.one("ConfigMap", "documents-settings")["data"]["settings.json"])
    assert (settings["auth"]["issuers"][0]["jwks_ca"], settings["auth"]["issuers"][0]["jwks_token_file"]) == (None, None)


def test_only_the_operator_has_the_operator_s_scopes(graph: Graph) -> None:
    (issuer,) = json.loads(graph.one("ConfigMap", "documents-settings")["data"]["settings.json"])["auth"]["issuers"]
    assert issuer["scopes"] == ["registry:write"]
    assert issuer["subject_scopes"] == {"system:serviceaccount:groundwork-dev:operator": ["config:write"]}


def test_nothing_of_the_settings_is_secret(graph: Graph) -> None:
    assert graph.one("ConfigMap", "documents-settings").secret_paths == ()


def test_no_variable_holds_a_credential(graph: Graph) -> None:
    (container,) = graph.one("Deployment", "documents")["spec.template.spec.containers"]
    assert {variable["name"] for variable in container["env"]} == {"PLATFORM_INSTANCE_ID", "PLATFORM_ADDRESS"}
    assert all("fieldRef" in variable["valueFrom"] for variable in container["env"])
    assert "envFrom" not in container


def test_the_service_in_front_selects_the_deployment_s_pods_and_finds_their_port() -> None:
    graph = built(replace(everything(), port=8080))
    pods = graph.one("Deployment", "documents")["spec.template"]
    selector = {"app.kubernetes.io/name": "documents", "app.kubernetes.io/instance": "dev"}
    assert graph.one("kubernetes:core/v1:Service", "documents")["spec.selector"] == selector
    assert graph.one("Deployment", "documents")["spec.selector.matchLabels"] == selector
    assert selector.items() <= pods["metadata"]["labels"].items()
    (port,) = graph.one("kubernetes:core/v1:Service", "documents")["spec.ports"]
    assert (port["port"], port["targetPort"]) == (8080, "http")
    assert {"name": "http", "containerPort": 8080} in pods["spec"]["containers"][0]["ports"]


def test_it_runs_as_the_account_of_its_name_which_is_there_first(graph: Graph) -> None:
    account = graph.one("ServiceAccount", "documents")
    assert account["automountServiceAccountToken"] is False
    assert graph.one("Deployment", "documents")["spec.template.spec.serviceAccountName"] == "documents"
    assert account.urn in graph.one("Deployment", "documents").dependencies


def test_the_pods_come_after_the_settings_that_they_mount(graph: Graph) -> None:
    assert graph.one("ConfigMap", "documents-settings").urn in graph.one("Deployment", "documents").dependencies


def test_there_is_time_to_finish_requests_before_the_end(graph: Graph) -> None:
    assert graph.one("Deployment", "documents")["spec.template.spec.terminationGracePeriodSeconds"] >= 40


def test_a_single_pod_has_no_disruption_budget_that_would_block_a_drain(graph: Graph) -> None:
    assert graph.of_type("PodDisruptionBudget") == []
    assert "topologySpreadConstraints" not in graph.one("Deployment", "documents")["spec.template.spec"]


def test_replicas_have_a_disruption_budget_and_spread() -> None:
    graph = built(everything(replicas=3))
    assert graph.one("PodDisruptionBudget", "documents")["spec"]["maxUnavailable"] == 1
    assert len(graph.one("Deployment", "documents")["spec.template.spec.topologySpreadConstraints"]) == 2


def test_an_update_never_takes_a_ready_pod_away_first(graph: Graph) -> None:
    assert graph.one("Deployment", "documents")["spec.strategy.rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_no_replicas_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="replicas is 0: a service needs at least 1"):
        ServiceArgs(AT, "i:1", ("-m", "x"), "dev", "ca", replicas=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ()}, "command: is empty: name the module to run"),
        ({"port": 80}, "port is 80: use 1024 to 65535"),
        ({"port": 99999}, "port is 99999: use 1024 to 65535"),
        ({"port": 9000}, "port is 9000: every service offers its metrics there"),
    ],
)
def test_what_cannot_run_is_refused_with_the_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(everything(), **changes)


def test_the_demand_counts_a_second_pod_of_each_in_a_rolling_update() -> None:
    args = replace(everything(replicas=2), resources=Resources(cpu_m=10, memory_mib=100))
    demand = service.describe("documents", args).demand
    assert (demand.pods, demand.sum("memory_mib"), demand.claims) == (4, 400, 0)


def test_it_describes_itself_as_the_client_of_all_that_it_uses_and_calls() -> None:
    described = service.describe("documents", everything())
    me = AT.workload("documents")
    assert described.workloads == (me,)
    assert set(described.edges) == {
        Edge(me, AT.workload("postgres"), 5432, Transport.OWN_TLS, required=True),
        Edge(me, AT.workload("redis"), 6379, Transport.OWN_TLS, required=False),
        Edge(me, AT.workload("rabbitmq"), 5671, Transport.OWN_TLS, required=True),
        Edge(me, AT.workload("consul"), 8501, Transport.OWN_TLS, required=False),
        Edge(me, AT.workload("users"), 8080, Transport.PLAIN, service.UNENCRYPTED, required=False),
    }
