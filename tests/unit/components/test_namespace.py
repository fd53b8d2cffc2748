"""The namespace refuses unsafe pods and every connection that nobody declared; the operator's account runs no pod."""

from __future__ import annotations

import pulumi_kubernetes as k8s
import pytest

from components import operator_account
from components.lib import labels
from components.lib.contracts import Placement
from components.namespace import Namespace, NamespaceArgs
from components.operator_account import OperatorAccount, OperatorAccountArgs
from tests.unit.recording import Graph, record

ARGS = NamespaceArgs("groundwork-dev", "dev", "v1.34", rotation=3, cluster="uid-1")


def built(args: NamespaceArgs = ARGS) -> Graph:
    return record(lambda: Namespace("namespace", args, provider=k8s.Provider("k8s", kubeconfig="", context="c")))


@pytest.mark.parametrize("mode", ["enforce", "audit", "warn"])
def test_unsafe_pods_are_refused_by_the_rules_of_one_version(mode: str) -> None:
    found = built().one("Namespace", "groundwork-dev")["metadata.labels"]
    assert found[f"pod-security.kubernetes.io/{mode}"] == "restricted"
    assert found[f"pod-security.kubernetes.io/{mode}-version"] == "v1.34"


def test_a_namespace_of_node_agents_may_have_another_level() -> None:
    found = built(NamespaceArgs("agents", "dev", "v1.34", "privileged")).one("Namespace", "agents")["metadata.labels"]
    assert found["pod-security.kubernetes.io/enforce"] == "privileged"


def test_no_connection_in_or_out_is_allowed_unless_a_policy_says_so() -> None:
    policy = built().one("NetworkPolicy", "default-deny")
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policy["metadata.namespace"] == "groundwork-dev"


def test_the_fence_stands_in_the_namespace_that_it_fences() -> None:
    graph = built()
    assert graph.one("Namespace", "groundwork-dev").urn in graph.one("NetworkPolicy", "default-deny").dependencies


def test_the_namespace_says_which_generation_of_credentials_is_in_use() -> None:
    assert built().one("Namespace", "groundwork-dev")["metadata.annotations"][labels.ROTATION] == "3"


def test_the_namespace_says_what_pulumi_takes_the_cluster_for() -> None:
    assert built().one("Namespace", "groundwork-dev")["metadata.annotations"][labels.CLUSTER] == "uid-1"


@pytest.mark.parametrize(
    ("stack", "name", "message"), [("My_Stack", "n", "stack is My_Stack"), ("s" * 51, "n", "stack is s"), ("dev", "My_Space", "namespace is My")]
)
def test_a_name_that_cannot_be_a_label_is_refused(stack: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*may have at most"):
        NamespaceArgs(name, stack, "v1.34")


@pytest.mark.parametrize("keep", [True, False])
def test_it_outlives_a_destroy_with_the_volumes_in_it_where_data_is_kept(keep: bool) -> None:
    graph = built(NamespaceArgs("groundwork-dev", "dev", "v1.34", retain_data=keep))
    assert [r.type.rpartition(":")[2] for r in graph.resources if r.retain] == (["Namespace"] if keep else [])


def test_the_operator_is_an_account_that_no_pod_has_a_token_of() -> None:
    args = OperatorAccountArgs(Placement("dev", "groundwork-dev"))
    graph = record(lambda: OperatorAccount("operator", args, provider=k8s.Provider("k8s", kubeconfig="", context="c")))
    (account,) = graph.of_type("ServiceAccount")
    assert (account["metadata.name"], account["metadata.namespace"]) == ("operator", "groundwork-dev")
    assert account["automountServiceAccountToken"] is False
    assert operator_account.subject("groundwork-dev") == "system:serviceaccount:groundwork-dev:operator"
