"""Both ends of every edge are allowed, and nothing else is."""

from __future__ import annotations

import pulumi_kubernetes as k8s

from components import network
from components.lib.contracts import ClusterPods, Edge, Outside, Placement, Protocol, Workload
from components.network import NetworkArgs
from tests.unit.recording import record

AT = Placement(stack="dev", namespace="groundwork-dev")
CALLS = Edge(Workload("documents"), Workload("postgres"), 5432, tls=True)
LOOKS_UP = Edge(Workload("documents"), ClusterPods("dns", "kube-system", (("k8s-app", "kube-dns"),)), 53, tls=False, protocol=Protocol.UDP)
OPERATES = Edge(Outside("operators", ("10.1.0.0/16",)), Workload("documents"), 8000, tls=False)


def test_an_edge_is_allowed_at_both_its_ends() -> None:
    args = NetworkArgs(AT, (CALLS,))
    sends, receives = network.policies(args)["documents"], network.policies(args)["postgres"]
    assert sends.egress == [
        network.networking.v1.NetworkPolicyEgressRuleArgs(to=network.peers(Workload("postgres"), "dev"), ports=network.ports([CALLS]))
    ]
    assert receives.ingress == [
        network.networking.v1.NetworkPolicyIngressRuleArgs(from_=network.peers(Workload("documents"), "dev"), ports=network.ports([CALLS]))
    ]


def test_an_edge_allows_nothing_the_other_way_round() -> None:
    args = NetworkArgs(AT, (CALLS,))
    assert network.policies(args)["documents"].ingress == []
    assert network.policies(args)["postgres"].egress == []


def test_a_policy_always_governs_both_directions() -> None:
    assert network.policies(NetworkArgs(AT, (CALLS,)))["postgres"].policy_types == ["Ingress", "Egress"]


def test_no_addresses_means_no_rule_and_not_everybody() -> None:
    nobody = Edge(Outside("operators", ()), Workload("documents"), 8000, tls=False)
    assert network.policies(NetworkArgs(AT, (nobody,)))["documents"].ingress == []


def test_operators_are_let_in_by_their_addresses() -> None:
    (rule,) = network.policies(NetworkArgs(AT, (OPERATES,)))["documents"].ingress or []  # type: ignore[misc]
    assert rule.from_ == [network.networking.v1.NetworkPolicyPeerArgs(ip_block=network.networking.v1.IPBlockArgs(cidr="10.1.0.0/16"))]  # type: ignore[union-attr]


def test_two_edges_to_one_server_are_one_rule_with_both_ports() -> None:
    other = Edge(Workload("documents"), Workload("postgres"), 5433, tls=True)
    (rule,) = network.policies(NetworkArgs(AT, (other, CALLS)))["documents"].egress or []  # type: ignore[misc]
    assert [port.port for port in rule.ports] == [5432, 5433]  # type: ignore[union-attr]


def test_there_is_one_policy_for_each_workload_and_none_for_outsiders() -> None:
    def build() -> None:
        args = NetworkArgs(AT, (CALLS, LOOKS_UP, OPERATES))
        network.Network("network", args, provider=k8s.Provider("k8s", kubeconfig="", context="c"))

    graph = record(build)
    assert {policy.object_name for policy in graph.of_type("NetworkPolicy")} == {"documents", "postgres"}
    assert len(graph.resources) == 4  # provider, component, two policies
