"""Both ends of every edge are allowed, and nothing else is: the policies as the API server gets them."""

from __future__ import annotations

from typing import Any

import pulumi_kubernetes as k8s
import pytest

from components import network
from components.lib.contracts import ApiServer, ClusterPods, Edge, Outside, Placement, Protocol, Transport, Workload
from components.network import NetworkArgs
from tests.unit.recording import Graph, record

AT = Placement(stack="dev", namespace="groundwork-dev")
DOCUMENTS, POSTGRES = AT.workload("documents"), AT.workload("postgres")
GATEWAY = Workload("gateway", "groundwork-dev-gateway")
DNS = ClusterPods("dns", "kube-system", (("k8s-app", "kube-dns"),))
API_SERVER = ApiServer(("10.0.0.7/32", "10.0.0.5/32"))
CALLS = Edge(DOCUMENTS, POSTGRES, 5432, Transport.OWN_TLS)
LOOKS_UP = Edge(DOCUMENTS, DNS, 53, Transport.PLAIN, "a reason", protocol=Protocol.UDP)
VERIFIES = Edge(DOCUMENTS, API_SERVER, 6443, Transport.OWN_TLS)
OPERATES = Edge(Outside("operators", ("10.1.0.0/16",)), DOCUMENTS, 8000, Transport.PLAIN, "a reason")
ENTERS = Edge(GATEWAY, DOCUMENTS, 8000, Transport.PLAIN, "a reason")
SELECTOR = {"app.kubernetes.io/name": "documents", "app.kubernetes.io/instance": "dev"}
OF_POSTGRES = {"app.kubernetes.io/name": "postgres", "app.kubernetes.io/instance": "dev"}


def recorded(*edges: Edge, plugin: str | None = None) -> Graph:
    elsewhere = {GATEWAY.namespace: Placement(stack="dev", namespace=GATEWAY.namespace)}
    args = NetworkArgs(AT, edges, plugin, elsewhere)
    return record(lambda: network.Network("network", args, provider=k8s.Provider("k8s", kubeconfig="", context="c")))


def policy(name: str, *edges: Edge) -> dict[str, Any]:
    return recorded(*edges).one("NetworkPolicy", name)["spec"]


def test_the_client_may_send_to_the_server_s_pods_on_the_edge_s_port() -> None:
    assert policy("documents", CALLS) == {
        "podSelector": {"matchLabels": SELECTOR},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [],
        "egress": [{"to": [{"podSelector": {"matchLabels": OF_POSTGRES}}], "ports": [{"port": 5432, "protocol": "TCP"}]}],
    }


def test_the_server_may_receive_from_the_client_s_pods_on_the_edge_s_port() -> None:
    assert policy("postgres", CALLS) == {
        "podSelector": {"matchLabels": OF_POSTGRES},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": SELECTOR}}], "ports": [{"port": 5432, "protocol": "TCP"}]}],
        "egress": [],
    }


def test_pods_of_the_cluster_are_meant_by_namespace_and_labels_together() -> None:
    (rule,) = policy("documents", LOOKS_UP)["egress"]
    assert rule == {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "ports": [{"port": 53, "protocol": "UDP"}],
    }


def test_the_api_server_is_meant_by_all_its_addresses() -> None:
    (rule,) = policy("documents", VERIFIES)["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "10.0.0.5/32"}}, {"ipBlock": {"cidr": "10.0.0.7/32"}}]
    assert rule["ports"] == [{"port": 6443, "protocol": "TCP"}]


def test_a_workload_of_another_namespace_is_meant_by_that_namespace() -> None:
    (rule,) = policy("documents", ENTERS)["ingress"]
    assert rule["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "groundwork-dev-gateway"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway", "app.kubernetes.io/instance": "dev"}},
        }
    ]


def test_each_policy_lies_in_the_namespace_of_its_workload() -> None:
    graph = recorded(ENTERS)
    places = {p["metadata.name"]: p["metadata.namespace"] for p in graph.of_type("NetworkPolicy")}
    assert places == {"documents": "groundwork-dev", "gateway": "groundwork-dev-gateway"}


def test_a_namespace_that_the_stack_does_not_have_is_refused() -> None:
    with pytest.raises(KeyError, match="elsewhere"):
        NetworkArgs(AT, ()).place("elsewhere")


def test_no_addresses_means_no_rule_and_not_everybody() -> None:
    nobody = Edge(Outside("operators", ()), DOCUMENTS, 8000, Transport.PLAIN, "a reason")
    assert policy("documents", nobody)["ingress"] == []


def test_operators_are_let_in_by_their_addresses() -> None:
    (rule,) = policy("documents", OPERATES)["ingress"]
    assert rule == {"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"port": 8000, "protocol": "TCP"}]}


def test_two_edges_to_one_server_are_one_rule_with_both_ports() -> None:
    other = Edge(DOCUMENTS, POSTGRES, 5433, Transport.OWN_TLS)
    (rule,) = policy("documents", other, CALLS)["egress"]
    assert [port["port"] for port in rule["ports"]] == [5432, 5433]


def test_the_order_of_edges_does_not_matter() -> None:
    every = (CALLS, LOOKS_UP, VERIFIES, OPERATES, ENTERS)
    assert policy("documents", *every) == policy("documents", *reversed(every))


def test_there_is_one_policy_for_each_workload_and_none_for_outsiders() -> None:
    graph = recorded(CALLS, LOOKS_UP, VERIFIES, OPERATES)
    assert {policy.object_name for policy in graph.of_type("NetworkPolicy")} == {"documents", "postgres"}
    assert len(graph.resources) == 4  # provider, component, two policies


def test_cilium_is_told_of_the_api_server_by_its_own_word() -> None:
    (extra,) = recorded(CALLS, VERIFIES, plugin="cilium").of_type("CiliumNetworkPolicy")
    assert extra["metadata.name"] == "documents-kube-apiserver"
    assert extra["spec"] == {
        "endpointSelector": {"matchLabels": SELECTOR},
        "egress": [{"toEntities": ["kube-apiserver"], "toPorts": [{"ports": [{"port": "6443", "protocol": "TCP"}]}]}],
    }


@pytest.mark.parametrize("plugin", [None, "calico", "kube-router"])
def test_nobody_else_is(plugin: str | None) -> None:
    assert recorded(CALLS, VERIFIES, plugin=plugin).of_type("CiliumNetworkPolicy") == []
