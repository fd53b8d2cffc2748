"""Asks the cluster before anything is registered: can it be used, what is it like, what of the stack is there already?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import quote

from components.lib import labels, versions
from stacks.cluster import contents, network
from stacks.cluster.answers import (
    ApiGroups,
    ClaimObject,
    DaemonSet,
    Discovery,
    EndpointSlice,
    Item,
    Job,
    Listed,
    Namespace,
    Node,
    Secret,
    Service,
    StatefulSet,
    StorageClassObject,
    Version,
)
from stacks.cluster.api import connect
from stacks.cluster.facts import ISSUER, JWKS_IN_CLUSTER, KUBE_DNS, ClusterFacts, DnsServers, UnusableCluster
from stacks.cluster.inquiry import Asked, Inquiry, Question

VERSION = Question("/version", Version, "get /version")
KUBE_SYSTEM = Question("/api/v1/namespaces/kube-system", Namespace, "get namespaces (kube-system)")
DISCOVERY = Question("/.well-known/openid-configuration", Discovery, "get /.well-known/openid-configuration")
API_GROUPS = Question("/apis", ApiGroups, "get /apis")
API_SERVICE = Question("/api/v1/namespaces/default/services/kubernetes", Service, "get services in namespace default")
DAEMON_SETS = Question("/apis/apps/v1/daemonsets", Listed[DaemonSet], "list daemonsets.apps in all namespaces")
NODES = Question("/api/v1/nodes?limit=1", Listed[Node], "list nodes")
STORAGE_CLASSES = Question("/apis/storage.k8s.io/v1/storageclasses", Listed[StorageClassObject], "list storageclasses.storage.k8s.io")

ADDRESSES_UNKNOWN = (
    "the addresses of the API server are not known, so that services cannot fetch the keys that verify tokens. Have it granted, or set "
    "settings.cluster.api_server_cidrs and settings.cluster.api_server_ports"
)
ASSUMED_FAMILIES = ("IPv4",)
DNS_TAKEN = "the DNS servers are taken for the pods k8s-app=kube-dns in kube-system"
DNS_ASSUMED = f"{DNS_TAKEN}. Have it granted, or set settings.cluster.dns"
PORTS_ASSUMED = "the DNS servers are taken to listen on the port that their Service names. Have it granted, or set settings.cluster.dns"
ISSUER_ASSUMED = (
    f"tokens are expected from {ISSUER}. Have it granted (ClusterRole system:service-account-issuer-discovery), or set settings.cluster.issuer "
    "and settings.cluster.jwks_url"
)
NODES_UNSEEN = (
    "DNS caches on the nodes are not seen, nor whether the network plugin enforces NetworkPolicies. Have it granted, or set "
    "settings.cluster.dns where the nodes have a cache"
)


def services_of(namespace: str) -> Question[Listed[Service]]:
    """All Services of a namespace; none where there is no such namespace."""
    return Question(f"/api/v1/namespaces/{namespace}/services", Listed[Service], f"list services in namespace {namespace}")


def slices_of(namespace: str) -> Question[Listed[EndpointSlice]]:
    """What stands behind the Services of a namespace."""
    return Question(
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        Listed[EndpointSlice],
        f"list endpointslices.discovery.k8s.io in namespace {namespace}",
    )


def namespaces_of(stack: str) -> Question[Listed[Namespace]]:
    """All namespaces of a stack."""
    selector = quote(f"{labels.PART_OF}=groundwork,{labels.INSTANCE}={stack}", safe="")
    return Question(f"/api/v1/namespaces?labelSelector={selector}", Listed[Namespace], "list namespaces")


@dataclass(frozen=True)
class Resolving:
    """The questions whose answers say who resolves names."""

    services: Asked[Listed[Service]]
    slices: Asked[Listed[EndpointSlice]]

    @staticmethod
    def of(inquiry: Inquiry, namespace: str) -> Resolving:
        """Asks them of a namespace."""
        return Resolving(inquiry.ask(services_of(namespace)), inquiry.ask(slices_of(namespace)))

    def servers(self, inquiry: Inquiry, namespace: str) -> DnsServers | None:
        """The DNS servers of the namespace, or None where it has none. Raises UnusableCluster."""
        services = inquiry.optional(self.services, DNS_ASSUMED)
        if services is None:
            return KUBE_DNS
        service = network.dns_service(services.items)
        if service is None:
            return None
        return network.dns_servers(namespace, service, _items(inquiry.optional(self.slices, PORTS_ASSUMED)))


@dataclass(frozen=True)
class Inside:
    """The questions about the stack's namespace."""

    namespace: Asked[Namespace]
    claims: Asked[Listed[ClaimObject]]
    stateful_sets: Asked[Listed[StatefulSet]]
    jobs: Asked[Listed[Job]]
    kept: Asked[Listed[Secret]]

    @staticmethod
    def of(inquiry: Inquiry, name: str) -> Inside:
        """Asks them of namespace `name`, whether it is there or not: that is known later."""
        ns, where = quote(name, safe=""), f"in namespace {name}"
        return Inside(
            inquiry.ask(Question(f"/api/v1/namespaces/{ns}", Namespace, f"get namespaces ({name})")),
            inquiry.ask(Question(f"/api/v1/namespaces/{ns}/persistentvolumeclaims", Listed[ClaimObject], f"list persistentvolumeclaims {where}")),
            inquiry.ask(Question(f"/apis/apps/v1/namespaces/{ns}/statefulsets", Listed[StatefulSet], f"list statefulsets.apps {where}")),
            inquiry.ask(Question(f"/apis/batch/v1/namespaces/{ns}/jobs", Listed[Job], f"list jobs.batch {where}")),
            inquiry.ask(
                Question(
                    f"/api/v1/namespaces/{ns}/secrets?labelSelector={quote(f'{labels.KEEP}=true', safe='')}",
                    Listed[Secret],
                    f"list secrets {where}",
                )
            ),
        )


def version_of(found: Version, context: str) -> tuple[str, str | None]:
    """The version as `1.34`, and a warning where it is newer than what is known; providers write things like `34+`.

    Raises UnusableCluster for one that is too old, or none.
    """
    version = f"{found.major}.{found.minor.rstrip('+')}"
    known = ", ".join(versions.KUBERNETES_SUPPORTED)
    try:
        number = _number(version)
    except ValueError:
        raise UnusableCluster(f"context {context!r} says that it runs Kubernetes {version}, which is no version; supported are {known}") from None
    if number < min(map(_number, versions.KUBERNETES_SUPPORTED)):
        raise UnusableCluster(f"context {context!r} runs Kubernetes {version}; supported are {known}: upgrade the cluster, or choose another context")
    if number > max(map(_number, versions.KUBERNETES_SUPPORTED)):
        return version, f"context {context!r} runs Kubernetes {version}, newer than what was tried ({known}): look for a newer Groundwork"
    return version, None


def _number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


def read(context: str, stack: str, namespace: str) -> ClusterFacts:
    """What there is to know of the cluster of `context` and of `stack` and its `namespace` in it, within thirty seconds.

    What the asker may not see gets the usual value and a warning. Raises UnusableCluster, with the fix, where the cluster cannot be
    reached, is too old, fails, or hides what must be known.
    """
    inquiry = Inquiry(connect(context, f"Pulumi.{stack}.yaml"))
    try:
        # Alone, and first: most of what can be wrong is wrong with every question.
        version = inquiry.required(inquiry.ask(VERSION))
        number, too_new = version_of(version, context)
        if too_new:
            inquiry.warnings.append(too_new)
        facts = _learn(inquiry, (version.git_version, number), stack, namespace)
        return replace(facts, warnings=tuple(inquiry.warnings))
    finally:
        inquiry.close()


def _learn(inquiry: Inquiry, versions_told: tuple[str, str], stack: str, namespace: str) -> ClusterFacts:
    git_version, version = versions_told
    # Everything is asked before the first answer is waited for.
    kube_system, inside = inquiry.ask(KUBE_SYSTEM), Inside.of(inquiry, namespace)
    of_stack = inquiry.ask(namespaces_of(stack))
    discovering, resolving = inquiry.ask(DISCOVERY), Resolving.of(inquiry, "kube-system")
    api_service_asked, api_slices_asked = inquiry.ask(API_SERVICE), inquiry.ask(slices_of("default"))
    daemon_sets_asked, groups_asked = inquiry.ask(DAEMON_SETS), inquiry.ask(API_GROUPS)
    nodes_asked, classes_asked = inquiry.ask(NODES), inquiry.ask(STORAGE_CLASSES)

    uid, there = inquiry.required(kube_system).metadata.uid, inquiry.if_there(inside.namespace)
    discovery = inquiry.optional(discovering, ISSUER_ASSUMED)
    jwks_url, jwks_in_cluster = network.keys(discovery) if discovery else (JWKS_IN_CLUSTER, True)
    api_service = inquiry.optional(api_service_asked, ADDRESSES_UNKNOWN)
    api_slices = _items(inquiry.optional(api_slices_asked, ADDRESSES_UNKNOWN))
    daemon_sets = _items(inquiry.optional(daemon_sets_asked, NODES_UNSEEN))
    groups = inquiry.optional(groups_asked, "the network plugin may not be recognised")
    plugin = network.plugin(daemon_sets, [group.name for group in groups.groups] if groups else (), git_version)
    if reason := network.unenforced(plugin, daemon_sets):
        inquiry.warnings.append(f"any pod of the cluster can reach this stack's, whatever its NetworkPolicies say: {reason}")
    nodes = inquiry.optional(nodes_asked, "whether pods have both IP families is not seen; taken is that of the API server's Service")
    owned = inquiry.optional(of_stack, "whether the stack has another namespace already is not checked")
    classes = inquiry.optional(classes_asked, "whether a volume can grow is known only when it is tried")

    facts = ClusterFacts(
        uid=uid,
        version=version,
        issuer=discovery.issuer if discovery else ISSUER,
        jwks_url=jwks_url,
        jwks_in_cluster=jwks_in_cluster,
        api_servers=network.api_servers(api_service, api_slices),
        dns=network.with_resolvers_on_nodes(_dns(inquiry, resolving), daemon_sets, git_version),
        network_plugin=plugin,
        ip_families=network.ip_families(api_service, _items(nodes)) or ASSUMED_FAMILIES,
        storage_classes=contents.storage_classes(_items(classes)),
        guessed=tuple(
            setting for setting, answer in (("issuer", discovery), ("api_server_cidrs", api_service), ("network_plugin", groups)) if answer is None
        ),
        elsewhere=tuple(sorted({found.metadata.name for found in _items(owned)} - {namespace})),
    )
    return _with_namespace(facts, inquiry, inside, there) if there else facts


def _dns(inquiry: Inquiry, resolving: Resolving) -> DnsServers:
    if found := resolving.servers(inquiry, "kube-system"):
        return found
    if found := Resolving.of(inquiry, "openshift-dns").servers(inquiry, "openshift-dns"):
        return found
    inquiry.warnings.append(f"no Service for DNS was found in kube-system or openshift-dns: {DNS_TAKEN}. Set settings.cluster.dns")
    return KUBE_DNS


def _with_namespace(facts: ClusterFacts, inquiry: Inquiry, inside: Inside, there: Namespace) -> ClusterFacts:
    # Without what opens the volumes that were kept, new passwords would be made that do not: hence no guess.
    kept = inquiry.required(inside.kept)
    claims = inquiry.optional(inside.claims, "whether a volume would have to shrink, or to move, is not checked")
    stateful_sets = inquiry.optional(inside.stateful_sets, "whether an engine would go back to an older version is not checked")
    jobs = inquiry.optional(inside.jobs, "Jobs that are done may run again")
    return replace(
        facts,
        namespace=contents.namespace_facts(there),
        claims=contents.claims(_items(claims)),
        stateful_sets=contents.stateful_sets(_items(stateful_sets)),
        done_jobs=contents.done_jobs(_items(jobs)),
        kept=contents.kept(kept.items),
        rotation=contents.rotation(there),
    )


def _items(listed: Listed[Item] | None) -> tuple[Item, ...]:
    return listed.items if listed else ()
