"""Who talks to whom: every edge of a stack that follows from its settings. The engines declare the edges of their own parts."""

from __future__ import annotations

from components import consul, postgres, rabbitmq, redis, service
from components.contracts import ClusterPods, Edge, Outside, Peer, Protocol, Workload
from stacks.settings import PLATFORM_SERVICES, ClusterSettings, StackSettings

ENGINE_PORTS = {"postgres": postgres.PORT, "redis": redis.PORT, "rabbitmq": rabbitmq.PORT, "consul": consul.PORT}
DNS_PORT = 53


def dns_servers(cluster: ClusterSettings) -> Peer:
    """The cluster's DNS: the pods that nearly every cluster has, or the addresses that the settings name (a node-local cache, say)."""
    return Outside("dns", cluster.dns_cidrs) if cluster.dns_cidrs else ClusterPods("dns", "kube-system", (("k8s-app", "kube-dns"),))


def http_services(settings: StackSettings) -> dict[str, int]:
    """The port of every HTTP service of the stack, by name."""
    return {**dict.fromkeys(PLATFORM_SERVICES, service.HTTP_PORT), **{name: s.port for name, s in settings.services.items()}}


def of_services(settings: StackSettings) -> tuple[Edge, ...]:
    """The edges of the platform's API services and of the teams' services: engines, each other, the registry and Consul."""
    ports = http_services(settings)
    edges = [Edge(Workload(name), Workload("consul"), consul.PORT, tls=True) for name in PLATFORM_SERVICES]
    for name, entry in settings.services.items():
        client = Workload(name)
        edges += [Edge(client, Workload(engine), ENGINE_PORTS[engine], tls=True, required=engine not in entry.optional) for engine in entry.uses]
        edges += [Edge(client, Workload(called), ports[called], tls=False, required=False) for called in entry.calls]
        if "registry" not in entry.calls:
            edges.append(Edge(client, Workload("registry"), ports["registry"], tls=False, required=False))
        edges.append(Edge(client, Workload("consul"), consul.PORT, tls=True, required=False))
    return tuple(edges)


def of_cluster(settings: StackSettings, workloads: tuple[str, ...]) -> tuple[Edge, ...]:
    """Names for every client, and for every HTTP service the API server, whose keys verify ServiceAccount tokens."""
    dns = dns_servers(settings.cluster)
    api_server = Outside("kube-apiserver", settings.cluster.api_server_cidrs)
    return (
        *(Edge(Workload(name), dns, DNS_PORT, tls=False, protocol=protocol) for name in workloads for protocol in Protocol),
        *(
            Edge(Workload(name), api_server, port, tls=True, required=False)
            for name in http_services(settings)
            for port in settings.cluster.api_server_ports
        ),
    )


def of_operators(settings: StackSettings) -> tuple[Edge, ...]:
    """What the operators' addresses reach: every HTTP service and every engine. No addresses, no edges."""
    if not settings.cluster.operator_cidrs:
        return ()
    operators = Outside("operators", settings.cluster.operator_cidrs)
    return (
        *(Edge(operators, Workload(name), port, tls=False) for name, port in http_services(settings).items()),
        *(Edge(operators, Workload(name), port, tls=True) for name, port in ENGINE_PORTS.items()),
    )


def all_edges(settings: StackSettings, engine_edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    """Every edge of the stack."""
    own = (*engine_edges, *of_services(settings))
    clients = tuple(sorted({edge.client.name for edge in own if isinstance(edge.client, Workload)}))
    return (*own, *of_cluster(settings, clients), *of_operators(settings))
