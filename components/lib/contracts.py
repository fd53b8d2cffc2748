"""The words components speak to each other: where something is, how to prove who you are, who may call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pulumi import Input


@dataclass(frozen=True)
class Placement:
    """Where a component's objects go: what is the same for every component of a namespace.

    `stack` is the name of the stack and stands in every cluster-wide name. `created` is the namespace's name as an output of the object
    that makes it, so that whatever goes into it depends on it. `storage_class` None means the cluster's default class.
    """

    stack: str
    namespace: str
    created: Input[str] | None = None
    cluster_domain: str = "cluster.local"
    storage_class: str | None = None
    pull_secrets: tuple[Input[str], ...] = ()

    def workload(self, name: str) -> Workload:
        """The handle of the workload `name` in this namespace."""
        return Workload(name, self.namespace)

    def host(self, service: str) -> str:
        """The name by which pods of the cluster reach a Service of this namespace, and which its certificate carries."""
        return f"{service}.{self.namespace}.svc"


@dataclass(frozen=True)
class Credentials:
    """One client's Secret for one server, and the files that it holds."""

    secret: str
    files: tuple[str, ...] = ("username", "password")


@dataclass(frozen=True)
class ServerTls:
    """What a server proves itself with: a Secret of type kubernetes.io/tls, mounted by that server alone.

    `ca` names the ConfigMap whose `ca.crt` clients verify against. `fingerprint` is the certificate's SHA-256 in hex: by it one sees
    whether the server has taken a renewed certificate up.
    """

    secret: str
    ca: str
    fingerprint: Input[str]


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens, as its clients in the cluster reach it, and what they verify it with.

    `ca` is the name of a ConfigMap with a `ca.crt`, or None where the server speaks no TLS of its own.
    """

    host: str
    port: int
    ca: str | None


class Protocol(StrEnum):
    """The protocol of an edge, in the spelling of a NetworkPolicy."""

    TCP = "TCP"
    UDP = "UDP"


class Transport(StrEnum):
    """What keeps a connection from being read or changed on its way."""

    OWN_TLS = "TLS"  # both ends speak TLS themselves, and the client verifies the server
    MESH = "mesh"  # the mesh's sidecars encrypt it and tie it to an identity
    PLAIN = "plain"  # nothing: the edge says why that is right


@dataclass(frozen=True)
class Workload:
    """Pods of this stack, by their `app.kubernetes.io/name` and their namespace."""

    name: str
    namespace: str


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


@dataclass(frozen=True)
class ApiServer:
    """The cluster's API server at the addresses that it has, before and after its Service was resolved."""

    cidrs: tuple[str, ...]
    name: str = "kube-apiserver"


Peer = Workload | Outside | ClusterPods | ApiServer


@dataclass(frozen=True)
class Edge:
    """`client` opens connections to `server` on `port`: declared once, and everything that allows or shows it is derived from it.

    `required` says whether the client can do its work without the server: it decides the client's readiness. A PLAIN edge has a `reason`.
    """

    client: Peer
    server: Peer
    port: int
    transport: Transport
    reason: str = ""
    protocol: Protocol = Protocol.TCP
    required: bool = True

    def __post_init__(self) -> None:
        if (self.transport is Transport.PLAIN) != bool(self.reason):
            problem = "is plain without a reason" if not self.reason else f"gives a reason ({self.reason}), but is not plain"
            raise ValueError(f"the edge from {self.client.name} to {self.server.name}:{self.port} {problem}: say why, or encrypt it")


@dataclass(frozen=True)
class Use:
    """One service's use of one backing service: who is called, with which credential, and what it finds in its settings.

    `kind` is the name of the section in settings.json and of the folder with the credential's files; `settings` is that section, but for
    `required`.
    """

    kind: str
    server: Workload
    endpoint: Endpoint
    credentials: Credentials
    settings: Mapping[str, str | int | None]
    required: bool

    def edge(self, client: Workload) -> Edge:
        """The connection that `client` makes."""
        return Edge(client, self.server, self.endpoint.port, Transport.OWN_TLS, required=self.required)
