"""A service gets its settings and secrets as files, in the form that the runtime reads, and nothing secret in its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pulumi
import pulumi_kubernetes as k8s
import pytest

from components import service
from components.lib.contracts import Credentials, Endpoint, Placement
from components.service import ConsulUse, Issuer, PostgresUse, RabbitmqUse, RedisUse, Service, ServiceArgs
from groundwork import settings as runtime
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


def endpoint(name: str, port: int) -> Endpoint:
    return Endpoint(pulumi.Output.from_input(f"{name}.groundwork-dev.svc"), port, "groundwork-ca")


def everything(*, replicas: int = 1) -> ServiceArgs:
    """A service that uses all there is."""
    return ServiceArgs(
        AT,
        image="localhost/runtime:1",
        command=("-m", "demo.document_service"),
        profile="prod",
        ca="groundwork-ca",
        replicas=replicas,
        postgres=PostgresUse(endpoint("postgres", 5432), Credentials("postgres-documents", "d1"), "documents"),
        redis=RedisUse(endpoint("redis", 6379), Credentials("redis-documents", "d2"), "documents:", required=False),
        rabbitmq=RabbitmqUse(endpoint("rabbitmq", 5671), Credentials("rabbitmq-documents", "d3"), "documents"),
        consul=ConsulUse(endpoint("consul", 8501), Credentials("consul-documents", "d4")),
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
    assert (read.postgres.host, read.postgres.database, read.postgres.required) == ("postgres.groundwork-dev.svc", "documents", True)
    assert read.redis is not None
    assert (read.redis.key_prefix, read.redis.required) == ("documents:", False)
    assert read.rabbitmq is not None
    assert read.rabbitmq.vhost == "documents"
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


def test_the_pod_is_safe(graph: Graph) -> None:
    pod = graph.one("Deployment", "documents")["spec.template.spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    container = pod["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= container["resources"].keys()


def test_alive_ready_and_started_are_three_questions(graph: Graph) -> None:
    container = graph.one("Deployment", "documents")["spec.template.spec.containers.0"]
    paths = [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    assert paths == ["/health/live", "/health/ready", "/health/started"]


def test_new_credentials_roll_the_pods() -> None:
    def content(digest: str) -> str:
        args = ServiceArgs(
            AT, "i:1", ("-m", "x"), "dev", "ca", redis=RedisUse(endpoint("redis", 6379), Credentials("redis-documents", digest), "documents:")
        )
        return built(args).one("Deployment", "documents")["spec.template.metadata.annotations"]["groundwork/content-hash"]

    assert content("old") != content("new")
    assert content("old") == content("old")


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


def test_the_demand_counts_the_extra_pod_of_a_rolling_update() -> None:
    assert service.demand(everything().resources, replicas=2).pods == 3
