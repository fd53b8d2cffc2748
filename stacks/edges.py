"""The edges that no part declares, because they are the cluster's: names for everybody, keys of tokens, and what operators may reach."""

from __future__ import annotations

from collections.abc import Iterable

from components.lib.contracts import Edge, Outside, Protocol, Transport, Workload
from stacks.cluster.effective import Cluster

DNS_IS_PLAIN = "a cluster's DNS is not encrypted, and what it answers is verified by the certificates of those that are then called"
OPERATORS_BEFORE_A_GATEWAY = "services offer HTTP: from outside only the addresses that the stack file names reach it"


def clients(edges: Iterable[Edge]) -> list[Workload]:
    """The workloads that call anybody, in order."""
    return sorted({edge.client for edge in edges if isinstance(edge.client, Workload)}, key=lambda workload: workload.name)


def of_names(cluster: Cluster, callers: Iterable[Workload]) -> tuple[Edge, ...]:
    """Whoever calls somebody looks up a name."""
    return tuple(
        Edge(caller, peer, port, Transport.PLAIN, DNS_IS_PLAIN, protocol=protocol)
        for caller in callers
        for peer, port in cluster.dns
        for protocol in Protocol
    )


def of_token_keys(cluster: Cluster, services: Iterable[Workload]) -> tuple[Edge, ...]:
    """Every HTTP service verifies tokens with the issuer's keys; it keeps the ones it has while nobody answers."""
    return tuple(Edge(service, peer, port, Transport.OWN_TLS, required=False) for service in services for peer, port in cluster.key_servers)


def of_operators(cidrs: tuple[str, ...], services: Iterable[tuple[Workload, int]], engines: Iterable[tuple[Workload, int]]) -> tuple[Edge, ...]:
    """What the operators' addresses reach: every HTTP service and every engine. No addresses, no edges."""
    if not cidrs:
        return ()
    operators = Outside("operators", cidrs)
    return (
        *(Edge(operators, workload, port, Transport.PLAIN, OPERATORS_BEFORE_A_GATEWAY) for workload, port in services),
        *(Edge(operators, workload, port, Transport.OWN_TLS) for workload, port in engines),
    )
