"""The cluster as a stack takes it: as it says itself, unless the stack file knows better."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from dataclasses import dataclass
from urllib.parse import urlsplit

from components.lib.contracts import ApiServer, ClusterPods, Outside, Peer
from stacks.cluster.facts import JWKS_IN_CLUSTER, ClusterFacts, DnsServers
from stacks.settings import ClusterSettings

DNS_PORT = 53
IN_CLUSTER_HOST = "kubernetes.default.svc"


@dataclass(frozen=True)
class Cluster:
    """Who issues tokens and where the keys are; and, each with a port, who has the keys and who answers names."""

    issuer: str
    jwks_url: str
    keys_in_cluster: bool
    key_servers: tuple[tuple[Peer, int], ...]
    dns: tuple[tuple[Peer, int], ...]
    network_plugin: str | None


def is_in_cluster(url: str, domain: str) -> bool:
    """Whether `url` is the API server's, which is sent a token: a host that only begins with its name must never be."""
    return urlsplit(url).hostname in {IN_CLUSTER_HOST, f"{IN_CLUSTER_HOST}.{domain}"}


def effective(settings: ClusterSettings, facts: ClusterFacts) -> Cluster:
    """What holds for a stack. Without a setting, keys come from the API server, which has them on every cluster, public issuer or not."""
    url = settings.jwks_url or JWKS_IN_CLUSTER
    parts = urlsplit(url)
    in_cluster = is_in_cluster(url, settings.domain)
    outside = ((Outside("token-keys", settings.jwks_cidrs), parts.port or 443),)
    return Cluster(
        issuer=settings.issuer or facts.issuer,
        jwks_url=url,
        keys_in_cluster=in_cluster,
        key_servers=api_servers(settings, facts) if in_cluster else outside,
        dns=dns_servers(dns_settings(settings) or facts.dns),
        network_plugin=settings.network_plugin or facts.network_plugin,
    )


def block(ip: str) -> str:
    """One address as a block of addresses."""
    return str(ipaddress.ip_network(ip))


def api_servers(settings: ClusterSettings, facts: ClusterFacts) -> tuple[tuple[Peer, int], ...]:
    """The API server by its ports, each with the addresses that have it."""
    ports: dict[int, set[str]] = defaultdict(set)
    for address in facts.api_servers:
        ports[address.port].add(block(address.ip))
    if settings.api_server_cidrs is not None or settings.api_server_ports is not None:
        every = settings.api_server_cidrs or tuple(sorted({cidr for cidrs in ports.values() for cidr in cidrs}))
        return tuple((ApiServer(every), port) for port in settings.api_server_ports or sorted(ports))
    return tuple((ApiServer(tuple(sorted(cidrs))), port) for port, cidrs in sorted(ports.items()))


def dns_settings(settings: ClusterSettings) -> DnsServers | None:
    """The DNS servers that a stack file names."""
    chosen = settings.dns
    return None if chosen is None else DnsServers(chosen.namespace, tuple(sorted(chosen.labels.items())), chosen.ports, chosen.cidrs)


def dns_servers(dns: DnsServers) -> tuple[tuple[Peer, int], ...]:
    """Pods that answer names, on their own ports, and caches on the nodes."""
    pods = [(ClusterPods("dns", dns.namespace, dns.labels), port) for port in dns.ports] if dns.labels else []
    caches = [(ClusterPods("dns-cache", dns.namespace, dns.cache_labels), DNS_PORT)] if dns.cache_labels else []
    nodes = [(Outside("dns-nodes", dns.cidrs), DNS_PORT)] if dns.cidrs else []
    return (*pods, *caches, *nodes)
