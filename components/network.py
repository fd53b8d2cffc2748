"""The NetworkPolicies of both ends of every edge: what an edge declares is allowed, and nothing else.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import Provider, apiextensions, meta, networking

from components.lib import labels, options
from components.lib.contracts import ApiServer, ClusterPods, Edge, Outside, Peer, Placement, Workload

NAMESPACE_NAME = "kubernetes.io/metadata.name"  # the label that Kubernetes gives every namespace
CILIUM = "cilium"


@dataclass(frozen=True)
class NetworkArgs:
    """All edges of the stack, those of its own parts included, and where each of its namespaces is.

    `network_plugin` is what enforces the policies: not every one means the same by them.
    """

    at: Placement
    edges: tuple[Edge, ...]
    network_plugin: str | None = None
    elsewhere: Mapping[str, Placement] = field(default_factory=dict[str, Placement])

    def place(self, namespace: str) -> Placement:
        """The placement of a namespace of the stack. Raises KeyError for one that the stack does not have."""
        return self.at if namespace == self.at.namespace else self.elsewhere[namespace]


def peers(peer: Peer, stack: str, namespace: str) -> list[networking.v1.NetworkPolicyPeerArgs]:
    """`peer` in the words of a policy in `namespace`. An empty list means nobody: the caller must leave the rule out, for there it means
    everybody.
    """
    match peer:
        case Workload():
            pods = meta.v1.LabelSelectorArgs(match_labels=labels.selector(peer.name, stack))
            elsewhere = None if peer.namespace == namespace else meta.v1.LabelSelectorArgs(match_labels={NAMESPACE_NAME: peer.namespace})
            return [networking.v1.NetworkPolicyPeerArgs(pod_selector=pods, namespace_selector=elsewhere)]
        case Outside() | ApiServer():
            return [networking.v1.NetworkPolicyPeerArgs(ip_block=networking.v1.IPBlockArgs(cidr=cidr)) for cidr in sorted(peer.cidrs)]
        case ClusterPods():
            return [
                networking.v1.NetworkPolicyPeerArgs(
                    namespace_selector=meta.v1.LabelSelectorArgs(match_labels={NAMESPACE_NAME: peer.namespace}),
                    pod_selector=meta.v1.LabelSelectorArgs(match_labels=dict(peer.labels)),
                )
            ]


def ports(edges: Iterable[Edge]) -> list[networking.v1.NetworkPolicyPortArgs]:
    """The ports of `edges`, each once, in order."""
    return [
        networking.v1.NetworkPolicyPortArgs(port=port, protocol=protocol)
        for port, protocol in sorted({(edge.port, edge.protocol.value) for edge in edges})
    ]


def workloads(edges: Iterable[Edge]) -> list[Workload]:
    """The stack's workloads that have an edge, in order."""
    found = {peer for edge in edges for peer in (edge.client, edge.server) if isinstance(peer, Workload)}
    return sorted(found, key=lambda workload: (workload.namespace, workload.name))


def by_peer(edges: Iterable[Edge], *, of_client: bool) -> list[tuple[Peer, list[Edge]]]:
    """`edges` grouped by their server (or client), in the order of the peers' names, so that a preview shows no shuffling."""
    groups: dict[Peer, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(edge.client if of_client else edge.server, []).append(edge)
    return sorted(groups.items(), key=lambda group: (type(group[0]).__name__, group[0].name))


def policies(args: NetworkArgs) -> dict[Workload, networking.v1.NetworkPolicySpecArgs]:
    """The policy of each workload that has an edge. Edges are sorted to their ends once: the cost grows with their number alone."""
    incoming: dict[Workload, list[Edge]] = defaultdict(list)
    outgoing: dict[Workload, list[Edge]] = defaultdict(list)
    for edge in args.edges:
        if isinstance(edge.server, Workload):
            incoming[edge.server].append(edge)
        if isinstance(edge.client, Workload):
            outgoing[edge.client].append(edge)
    return {workload: policy(workload, args.at.stack, incoming[workload], outgoing[workload]) for workload in workloads(args.edges)}


def policy(workload: Workload, stack: str, incoming: list[Edge], outgoing: list[Edge]) -> networking.v1.NetworkPolicySpecArgs:
    """What `workload` may receive and send: one rule for each peer."""
    return networking.v1.NetworkPolicySpecArgs(
        pod_selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(workload.name, stack)),
        policy_types=["Ingress", "Egress"],
        ingress=[
            networking.v1.NetworkPolicyIngressRuleArgs(from_=allowed, ports=ports(edges))
            for peer, edges in by_peer(incoming, of_client=True)
            if (allowed := peers(peer, stack, workload.namespace))
        ],
        egress=[
            networking.v1.NetworkPolicyEgressRuleArgs(to=allowed, ports=ports(edges))
            for peer, edges in by_peer(outgoing, of_client=False)
            if (allowed := peers(peer, stack, workload.namespace))
        ],
    )


def cilium_policies(args: NetworkArgs) -> dict[Workload, dict[str, object]]:
    """For Cilium, the same again for the API server: there a block of addresses never means a node, and the API server runs on nodes.

    https://docs.cilium.io/en/stable/security/policy/language/#entities-based
    """
    allowed: dict[Workload, set[tuple[int, str]]] = defaultdict(set)
    for edge in args.edges if args.network_plugin == CILIUM else ():
        if isinstance(edge.server, ApiServer) and isinstance(edge.client, Workload):
            allowed[edge.client].add((edge.port, edge.protocol.value))
    return {
        workload: {
            "endpointSelector": {"matchLabels": labels.selector(workload.name, args.at.stack)},
            "egress": [
                {
                    "toEntities": ["kube-apiserver"],
                    "toPorts": [{"ports": [{"port": str(port), "protocol": protocol} for port, protocol in sorted(allowed[workload])]}],
                }
            ],
        }
        for workload in sorted(allowed, key=lambda workload: (workload.namespace, workload.name))
    }


class Network(pulumi.ComponentResource):
    """One NetworkPolicy for each workload that has an edge, named like the workload."""

    def __init__(self, name: str, args: NetworkArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:kubernetes:Network", name, None, opts)
        child = options.children(self, provider)
        specs = policies(args)
        for workload, spec in specs.items():
            metadata = labels.metadata(workload.name, workload.name, args.place(workload.namespace))
            networking.v1.NetworkPolicy(f"{name}-{self._key(args, workload)}", metadata=metadata, spec=spec, opts=child())
        for workload, spec in cilium_policies(args).items():
            apiextensions.CustomResource(
                f"{name}-{self._key(args, workload)}-kube-apiserver",
                api_version="cilium.io/v2",
                kind="CiliumNetworkPolicy",
                metadata=labels.metadata(f"{workload.name}-kube-apiserver", workload.name, args.place(workload.namespace)),
                spec=spec,
                opts=child(),
            )
        self.register_outputs({"policies": [workload.name for workload in specs]})

    @staticmethod
    def _key(args: NetworkArgs, workload: Workload) -> str:
        return workload.name if workload.namespace == args.at.namespace else f"{workload.namespace}-{workload.name}"
