"""The words components speak to each other: where something is, how to prove who you are, who may call it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pulumi import Input, Output


@dataclass(frozen=True)
class Placement:
    """Where a component's objects go: what is the same for every component of a stack.

    `stack` is the name of the stack and stands in every cluster-wide name. `storage_class` None means the cluster's default class.
    """

    stack: str
    namespace: Input[str]
    cluster_domain: str = "cluster.local"
    storage_class: str | None = None
    pull_secrets: tuple[Input[str], ...] = ()


@dataclass(frozen=True)
class SecretRef:
    """A key of a Kubernetes Secret: what a pod mounts, never the value itself."""

    name: Input[str]
    key: str


@dataclass(frozen=True)
class Credentials:
    """One client's Secret for one engine, and a digest of its content that rolls the pods that mount it."""

    secret: Input[str]
    digest: Input[str]


@dataclass(frozen=True)
class ServerTls:
    """What a server proves itself with: a Secret of type kubernetes.io/tls, mounted by that server alone.

    `ca` names the ConfigMap whose `ca.crt` clients verify against; `digest` changes with the certificate and rolls the server.
    """

    secret: Input[str]
    ca: Input[str]
    digest: Input[str]


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens, as its clients in the cluster reach it, and what they verify it with.

    `ca` is the name of a ConfigMap with a `ca.crt`, or None where the server speaks no TLS of its own.
    """

    host: Output[str]
    port: int
    ca: Input[str] | None


class Protocol(StrEnum):
    """The transport of an edge, in the spelling of a NetworkPolicy."""

    TCP = "TCP"
    UDP = "UDP"


@dataclass(frozen=True)
class Workload:
    """Pods of this stack, by their `app.kubernetes.io/name`."""

    name: str


@dataclass(frozen=True)
class Outside:
    """Addresses that are no pods of this stack, under the name they have in pictures and policies. An empty `cidrs` allows nothing."""

    name: str
    cidrs: tuple[str, ...]


@dataclass(frozen=True)
class ClusterPods:
    """Pods of the cluster that are not the stack's, such as its DNS servers, by namespace and labels."""

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...]


Peer = Workload | Outside | ClusterPods


@dataclass(frozen=True)
class Edge:
    """`client` opens connections to `server` on `port`: declared once, and everything that allows or shows it is derived from it.

    `tls` says whether the connection is encrypted and verified by its two ends themselves.
    `required` says whether the client can do its work without the server: it decides the client's readiness.
    """

    client: Peer
    server: Peer
    port: int
    tls: bool
    protocol: Protocol = Protocol.TCP
    required: bool = True
