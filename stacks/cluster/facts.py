"""What is known of a cluster, in the words that the rest of the program uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pydantic import SecretStr

from components.lib import versions


class UnusableCluster(pulumi.RunError):
    """The cluster cannot take the platform. Pulumi prints the message alone and touches nothing."""


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim: what it asks for, rounded up to whole GiB. No class means a volume that nobody provisions."""

    gib: int
    storage_class: str | None


@dataclass(frozen=True)
class StatefulSetFacts:
    """A StatefulSet as it is: the image of its first container, and the class that its claims name. None: the cluster's default."""

    replicas: int
    image: str
    storage_class: str | None = None


@dataclass(frozen=True)
class StorageClass:
    """A storage class. `expandable` says whether its claims may grow."""

    name: str
    expandable: bool
    default: bool
    provisioner: str


@dataclass(frozen=True)
class NamespaceFacts:
    """A namespace that is there. `terminating` means that it is being deleted."""

    labels: Mapping[str, str]
    terminating: bool
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Address:
    """An address of the API server, IPv4 or IPv6 without brackets, and its port."""

    ip: str
    port: int


@dataclass(frozen=True)
class DnsServers:
    """Who answers names.

    `labels` pick pods of `namespace`, and `ports` are those of the pods (5353 on OpenShift): policies see a packet after the Service has
    been resolved. No labels mean that no pods serve names. `cidrs` are resolvers outside of pods, such as node-local caches, on port 53.
    `cache_labels` pick pods of `namespace` that stand before the servers, on port 53 (Cilium's local redirect); mostly there are none.
    """

    namespace: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[int, ...]
    cidrs: tuple[str, ...]
    cache_labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster, and the stack's namespace in it.

    `uid` is that of the namespace kube-system: what a cluster is, whatever its context is called. `jwks_in_cluster` says that the keys of
    `issuer` come from the API server, which wants its own CA and a token; otherwise `jwks_url` is public. `api_servers` are the addresses
    before and behind the Service default/kubernetes. `network_plugin` None means one that is not recognised.
    `elsewhere` are other namespaces of the same stack.
    `guessed` are the settings of `cluster` that would say what could not be asked. `done_jobs` are the Jobs that
    succeeded, with the image of their first container. `kept` are the Secrets with the label groundwork/keep=true, by name and key.
    """

    uid: str
    version: str
    issuer: str
    jwks_url: str
    jwks_in_cluster: bool
    api_servers: tuple[Address, ...]
    dns: DnsServers
    network_plugin: str | None
    ip_families: tuple[str, ...]
    storage_classes: tuple[StorageClass, ...] = ()
    namespace: NamespaceFacts | None = None
    elsewhere: tuple[str, ...] = ()
    claims: Mapping[str, Claim] = field(default_factory=dict[str, Claim])
    stateful_sets: Mapping[str, StatefulSetFacts] = field(default_factory=dict[str, StatefulSetFacts])
    done_jobs: Mapping[str, str] = field(default_factory=dict[str, str])
    kept: Mapping[str, Mapping[str, SecretStr]] = field(default_factory=dict[str, Mapping[str, SecretStr]])
    rotation: int | None = None
    guessed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


# What nearly every cluster has; kubeadm's defaults.
ISSUER = "https://kubernetes.default.svc.cluster.local"
JWKS_IN_CLUSTER = "https://kubernetes.default.svc/openid/v1/jwks"
KUBE_DNS = DnsServers(namespace="kube-system", labels=(("k8s-app", "kube-dns"),), ports=(53,), cidrs=())

QUESTIONS = (
    "the UID of namespace kube-system and the version of Kubernetes",
    "the issuer of ServiceAccount tokens and where its keys are",
    "the addresses and ports of the API server",
    "the DNS servers: their pods, their ports, caches on the nodes",
    "the network plugin, and whether pods have IPv4, IPv6 or both",
    "the storage classes, and which of them can grow a volume",
    "the stack's namespace: whose it is, its volumes, engines, finished Jobs, kept Secrets and rotation",
)
"""What an `up` asks the cluster, in words: a plan without one shows them."""


def assumed() -> ClusterFacts:
    """An empty cluster as kubeadm makes it, for a plan without one."""
    return ClusterFacts(
        uid="unknown until `pulumi up`",
        version=versions.KUBERNETES_PROVEN,
        issuer=ISSUER,
        jwks_url=JWKS_IN_CLUSTER,
        jwks_in_cluster=True,
        api_servers=(Address("10.96.0.1", 443),),
        dns=KUBE_DNS,
        network_plugin=None,
        ip_families=("IPv4",),
    )
