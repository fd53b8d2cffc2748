"""The NetworkPolicies of both ends of every edge: what an edge declares is allowed, and nothing else.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, meta, networking

from components import labels
from components.contracts import ClusterPods, Edge, Outside, Peer, Placement, Workload


@dataclass(frozen=True)
class NetworkArgs:
    """All edges of the stack, those of its own parts included."""

    at: Placement
    edges: tuple[Edge, ...]


def peers(peer: Peer, stack: str) -> list[networking.v1.NetworkPolicyPeerArgs]:
    """`peer` in the words of a NetworkPolicy. An empty list means nobody: the caller must leave the rule out, for there it means everybody."""
    match peer:
        case Workload(name):
            return [networking.v1.NetworkPolicyPeerArgs(pod_selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(name, stack)))]
        case Outside(_, cidrs):
            return [networking.v1.NetworkPolicyPeerArgs(ip_block=networking.v1.IPBlockArgs(cidr=cidr)) for cidr in sorted(cidrs)]
        case ClusterPods(_, namespace, pod_labels):
            return [
                networking.v1.NetworkPolicyPeerArgs(
                    namespace_selector=meta.v1.LabelSelectorArgs(match_labels={"kubernetes.io/metadata.name": namespace}),
                    pod_selector=meta.v1.LabelSelectorArgs(match_labels=dict(pod_labels)),
                )
            ]


def ports(edges: Iterable[Edge]) -> list[networking.v1.NetworkPolicyPortArgs]:
    """The ports of `edges`, each once, in order."""
    return [
        networking.v1.NetworkPolicyPortArgs(port=port, protocol=protocol)
        for port, protocol in sorted({(edge.port, edge.protocol.value) for edge in edges})
    ]


def workloads(edges: Iterable[Edge]) -> list[str]:
    """The names of the stack's workloads that have an edge."""
    return sorted({peer.name for edge in edges for peer in (edge.client, edge.server) if isinstance(peer, Workload)})


def by_peer(edges: Iterable[Edge], *, of_client: bool) -> list[tuple[Peer, list[Edge]]]:
    """`edges` grouped by their server (or client), in the order of the peers' names, so that a preview shows no shuffling."""
    groups: dict[Peer, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(edge.client if of_client else edge.server, []).append(edge)
    return sorted(groups.items(), key=lambda group: (type(group[0]).__name__, group[0].name))


def policies(args: NetworkArgs) -> dict[str, networking.v1.NetworkPolicySpecArgs]:
    """The policy of each workload that has an edge, by its name. Edges are sorted to their ends once: the cost grows with their number alone."""
    incoming: dict[str, list[Edge]] = defaultdict(list)
    outgoing: dict[str, list[Edge]] = defaultdict(list)
    for edge in args.edges:
        if isinstance(edge.server, Workload):
            incoming[edge.server.name].append(edge)
        if isinstance(edge.client, Workload):
            outgoing[edge.client.name].append(edge)
    return {name: policy(name, args.at.stack, incoming[name], outgoing[name]) for name in workloads(args.edges)}


def policy(name: str, stack: str, incoming: list[Edge], outgoing: list[Edge]) -> networking.v1.NetworkPolicySpecArgs:
    """What workload `name` may receive and send: one rule for each peer."""
    return networking.v1.NetworkPolicySpecArgs(
        pod_selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(name, stack)),
        policy_types=["Ingress", "Egress"],
        ingress=[
            networking.v1.NetworkPolicyIngressRuleArgs(from_=allowed, ports=ports(edges))
            for peer, edges in by_peer(incoming, of_client=True)
            if (allowed := peers(peer, stack))
        ],
        egress=[
            networking.v1.NetworkPolicyEgressRuleArgs(to=allowed, ports=ports(edges))
            for peer, edges in by_peer(outgoing, of_client=False)
            if (allowed := peers(peer, stack))
        ],
    )


class Network(pulumi.ComponentResource):
    """One NetworkPolicy for each workload that has an edge, named like the workload."""

    def __init__(self, name: str, args: NetworkArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:kubernetes:Network", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        specs = policies(args)
        for workload, spec in specs.items():
            networking.v1.NetworkPolicy(f"{name}-{workload}", metadata=labels.metadata(workload, workload, args.at), spec=spec, opts=child)
        self.register_outputs({"policies": list(specs)})
