"""What a cluster's network is, from the answers of its API server. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from stacks.cluster.answers import Container, DaemonSet, Discovery, EndpointSlice, Node, Service, ServiceSpec
from stacks.cluster.facts import JWKS_IN_CLUSTER, Address, DnsServers

DNS_PORT = 53
IP_FAMILIES = ("IPv4", "IPv6")

# The first that is there counts: a plugin that enforces policies often stands on top of one that only connects.
PLUGIN_OF_DAEMON_SET = {
    "cilium": "cilium",
    "anetd": "cilium",  # GKE Dataplane V2: https://cloud.google.com/kubernetes-engine/docs/concepts/dataplane-v2
    "calico-node": "calico",
    "canal": "calico",
    "rke2-canal": "calico",
    "ovnkube-node": "ovn-kubernetes",
    "antrea-agent": "antrea",
    "kube-router": "kube-router",
    "azure-npm": "azure-npm",
    "kindnet": "kindnet",
    "aws-node": "aws-vpc-cni",
    "azure-cns": "azure-cni",
    "kube-flannel-ds": "flannel",
}
# For those who may not list DaemonSets, and for plugins that run outside of pods.
PLUGIN_OF_API_GROUP = {
    "cilium.io": "cilium",
    "crd.projectcalico.org": "calico",
    "k8s.ovn.org": "ovn-kubernetes",
    "crd.antrea.io": "antrea",
    "networking.k8s.aws": "aws-vpc-cni",
}
PLUGIN_OF_VERSION = {"+k3s": "kube-router"}  # in its own process: https://docs.k3s.io/networking/networking-services

API_SERVER_KEYS = "/openid/v1/jwks"  # the same path on every API server, whatever its issuer
NODE_LOCAL_DNS = "169.254.20.10"  # where the cache listens unless it is told: https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/
CLOUD_DNS_OF_GKE = "169.254.169.254"  # https://cloud.google.com/kubernetes-engine/docs/how-to/cloud-dns
LOCAL_DNS_OF_AKS = "169.254.10.11"  # https://learn.microsoft.com/azure/aks/localdns-custom


def keys(discovery: Discovery) -> tuple[str, bool]:
    """Where pods get the issuer's keys, and whether that is the API server.

    The API server announces an address of its own that pods often cannot reach, such as a node's on kubeadm and a host of the provider's
    on EKS (https://github.com/aws/containers-roadmap/issues/2234); then its Service is asked, which has the same keys.
    """
    announced = urlsplit(discovery.jwks_uri)
    if announced.scheme != "https" or announced.path == API_SERVER_KEYS or _ip(announced.hostname or "") is not None:
        return JWKS_IN_CLUSTER, True
    return discovery.jwks_uri, False


def api_servers(service: Service | None, slices: Iterable[EndpointSlice]) -> tuple[Address, ...]:
    """The addresses before and behind the Service `kubernetes`: policies see the one or the other, as the network plugin does it."""
    spec = service.spec if service else ServiceSpec()
    before = {Address(ip, port.port) for ip in spec.cluster_ips for port in spec.ports if _ip(ip)}
    behind = {
        Address(ip, port.port)
        for each in slices
        if each.behind("kubernetes")
        for ip in _addresses(each)
        for port in each.ports
        if port.port is not None
    }
    return tuple(sorted(before | behind, key=lambda address: (_sortable(address.ip), address.port)))


def dns_service(services: Sequence[Service]) -> Service | None:
    """The Service that pods send their questions to: kube-dns nearly everywhere, dns-default on OpenShift, or one that is labelled so."""
    asked = [service for service in services if any(port.port == DNS_PORT for port in service.spec.ports)]
    for service in asked:
        if service.metadata.name in {"kube-dns", "dns-default"}:
            return service
    labelled = [
        service
        for service in asked
        # kube-dns-upstream is what a node-local cache asks
        if service.metadata.labels.get("k8s-app") in {"kube-dns", "coredns"} and service.metadata.name != "kube-dns-upstream"
    ]
    return min(labelled, key=lambda service: service.metadata.name, default=None)


def dns_servers(namespace: str, service: Service, slices: Iterable[EndpointSlice]) -> DnsServers:
    """Who stands behind the DNS Service: pods by its selector, or addresses where it has none."""
    own = [each for each in slices if each.behind(service.metadata.name)]
    names = {port.name for port in service.spec.ports if port.port == DNS_PORT}
    ports = {port.port for each in own for port in each.ports if port.name in names and port.port is not None}
    if not ports:  # no endpoint at the moment
        ports = {port.target_port for port in service.spec.ports if port.name in names and isinstance(port.target_port, int) and port.target_port}
    outside = () if service.spec.selector else tuple(_block(ip) for each in own for ip in _addresses(each))
    return DnsServers(
        namespace=namespace,
        labels=tuple(sorted(service.spec.selector.items())),
        ports=tuple(sorted(ports)) or (DNS_PORT,),
        cidrs=_in_order(outside),
    )


def with_resolvers_on_nodes(dns: DnsServers, daemon_sets: Iterable[DaemonSet], version: str) -> DnsServers:
    """`dns` with the caches on the nodes, and with the node's own resolvers where the provider may point pods at them."""
    found = list(daemon_sets)
    cidrs = list(dns.cidrs)
    cache_labels: tuple[tuple[str, str], ...] = ()
    for cache in found:
        containers = [c for c in cache.spec.template.spec.containers if "k8s-dns-node-cache" in c.image]
        cidrs += [_block(ip) for container in containers for ip in _listens_on(container)]
        if containers and not cache.spec.template.spec.host_network and cache.metadata.name:
            cache_labels = tuple(sorted(cache.spec.selector.match_labels.items()))
    if "-gke." in version:
        cidrs.append(_block(CLOUD_DNS_OF_GKE))
    if any(each.metadata.name == "cloud-node-manager" for each in found):
        cidrs.append(_block(LOCAL_DNS_OF_AKS))
    return DnsServers(dns.namespace, dns.labels, dns.ports, _in_order(cidrs), cache_labels)


def plugin(daemon_sets: Iterable[DaemonSet], api_groups: Iterable[str], version: str) -> str | None:
    """The network plugin, by what runs on the nodes, else by the APIs it brings, else by the distribution."""
    running = {each.metadata.name for each in daemon_sets}
    groups = set(api_groups)
    by_daemon_set = (name for daemon_set, name in PLUGIN_OF_DAEMON_SET.items() if daemon_set in running)
    by_group = (name for group, name in PLUGIN_OF_API_GROUP.items() if group in groups)
    by_version = (name for mark, name in PLUGIN_OF_VERSION.items() if mark in version)
    return next(by_daemon_set, None) or next(by_group, None) or next(by_version, None)


def unenforced(found: str | None, daemon_sets: Iterable[DaemonSet]) -> str | None:
    """Why NetworkPolicies do nothing here, and what to do, or None where they are enforced or nobody can say."""
    match found:
        case "flannel":
            return "flannel enforces no NetworkPolicies: install a plugin that does, such as Calico (as Canal) or kube-router's firewall"
        case "azure-cni":
            return "Azure CNI enforces no NetworkPolicies by itself: az aks update --network-dataplane cilium --network-policy cilium"
        case "aws-vpc-cni":
            agents = [c for each in daemon_sets if each.metadata.name == "aws-node" for c in each.spec.template.spec.containers]
            if not agents or any("--enable-network-policy=true" in (*c.command, *c.args) for c in agents):
                return None
            return "the Amazon VPC CNI enforces no NetworkPolicies until told: set enableNetworkPolicy to true in the configuration of add-on vpc-cni"
        case _:
            return None


def ip_families(service: Service | None, nodes: Iterable[Node]) -> tuple[str, ...]:
    """The families of pods and Services. The Service of the API server has only the first one, also on dual stack: hence the nodes."""
    found = set(service.spec.ip_families) if service else set[str]()
    for node in nodes:
        found |= {f"IPv{ipaddress.ip_network(block).version}" for block in node.spec.pod_cidrs}
    return tuple(family for family in IP_FAMILIES if family in found)


def _listens_on(cache: Container) -> Iterator[str]:
    """The addresses of a node-local cache: its own, and that of the DNS Service, which it takes over on the node."""
    words = [*cache.command, *cache.args]
    for position, word in enumerate(words):
        flag, _, value = word.partition("=")
        if flag.lstrip("-") == "localip":
            yield from (ip for ip in (value or "".join(words[position + 1 : position + 2])).split(",") if _ip(ip))
            return
    yield NODE_LOCAL_DNS


def _addresses(endpoints: EndpointSlice) -> Iterator[str]:
    if endpoints.address_type in IP_FAMILIES:
        yield from (ip for endpoint in endpoints.endpoints for ip in endpoint.addresses)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _block(ip: str) -> str:
    return str(ipaddress.ip_network(ip))


def _sortable(ip: str) -> tuple[int, int]:
    address = ipaddress.ip_address(ip)
    return address.version, int(address)


def _in_order(blocks: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(blocks), key=lambda block: _sortable(block.partition("/")[0])))
