"""The whole platform, top to bottom: the wiring and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pulumi
from pulumi_kubernetes import Provider, core

from components import consul, labels, service, versions
from components import operator as operators
from components.certificates import Certificates, CertificatesArgs, Server
from components.consul import Consul
from components.contracts import Edge, Endpoint, Placement
from components.image import Image, ImageArgs
from components.namespace import Namespace, NamespaceArgs
from components.network import Network, NetworkArgs
from components.operator import Operator, OperatorArgs
from components.postgres import Postgres
from components.quota import Quota, QuotaArgs, largest
from components.rabbitmq import RabbitMQ
from components.redis import Redis
from components.service import ConsulUse, Issuer, PostgresUse, RabbitmqUse, RedisUse, Service, ServiceArgs
from components.workload import Demand, Resources
from stacks import edges, engines, outputs
from stacks.settings import StackSettings

ENGINES = ("postgres", "redis", "rabbitmq", "consul")
# What a ServiceAccount may do with the platform's APIs: everything that concerns the service it is, and reading.
SERVICE_ACCOUNT_SCOPES = ("registry:read", "registry:write", "config:read")


@dataclass(frozen=True)
class Built:
    """What `build` knows beyond the resources it registered: for plans, pictures and tests."""

    edges: tuple[Edge, ...]
    demand: Demand


def build(stack: str, settings: StackSettings) -> Built:
    """Registers everything that the stack is made of."""
    provider = kubernetes(stack, settings)

    namespace = Namespace("namespace", namespace_args(stack, settings), provider=provider)
    within = pulumi.ResourceOptions(depends_on=[namespace])
    at = Placement(stack, namespace.name, settings.cluster.domain, settings.cluster.storage_class)
    at = replace(at, pull_secrets=pull_secret(settings, at, provider, within))
    runtime = runtime_image(settings)
    servers = (*(Server(name) for name in ENGINES if name != "consul"), Server("consul", (consul.SERVER_SAN,)))
    certificates = Certificates("certificates", CertificatesArgs(at, servers), provider=provider, opts=within)
    operator = Operator("operator", OperatorArgs(at), provider=provider, opts=within)
    issuer = cluster_issuer(settings, at, operator)
    each = engines.arguments(settings, at, runtime, certificates.tls)

    every_edge = edges.all_edges(settings, each.edges())
    network = Network("network", NetworkArgs(at, every_edge), provider=provider, opts=within)
    demand, sizes = needs(settings, each)
    quota = Quota("quota", QuotaArgs(at, demand, sizes), provider=provider, opts=within)

    inside = pulumi.ResourceOptions(depends_on=[namespace, network, quota, certificates])
    postgres = Postgres("postgres", each.postgres, provider=provider, opts=inside)
    redis = Redis("redis", each.redis, provider=provider, opts=inside)
    rabbitmq = RabbitMQ("rabbitmq", each.rabbitmq, provider=provider, opts=inside)
    consuls = Consul("consul", each.consul, provider=provider, opts=inside)
    by_name = {"postgres": postgres, "redis": redis, "rabbitmq": rabbitmq, "consul": consuls}

    ready = pulumi.ResourceOptions(depends_on=[namespace, network, quota, *(engine.ready for engine in by_name.values())])
    running: dict[str, Endpoint] = {}
    for name, entry in (("registry", settings.registry), ("config", settings.config)):
        use = ConsulUse(consuls.endpoint, consuls.credentials[name], required=True)
        args = replace(common(settings, at, runtime, certificates.ca, issuer), command=("-m", "app", name), consul=use)
        args = replace(args, replicas=entry.replicas, resources=engines.resources(entry.resources), version=versions.GROUNDWORK)
        running[name] = Service(name, args, provider=provider, opts=ready).endpoint
    registered = pulumi.Output.format("http://{0}:{1}", running["registry"].host, running["registry"].port)

    for name, entry in sorted(settings.services.items()):
        args = replace(
            common(settings, at, entry.image or runtime, certificates.ca, issuer),
            command=entry.command,
            port=entry.port,
            replicas=entry.replicas,
            resources=engines.resources(entry.resources),
            registry_url=registered,
            consul=ConsulUse(consuls.endpoint, consuls.credentials[name]),
        )
        required = {engine: engine not in entry.optional for engine in entry.uses}
        if "postgres" in required:
            use = PostgresUse(postgres.endpoint, postgres.credentials[name], engines.database(name), required["postgres"])
            args = replace(args, postgres=use)
        if "redis" in required:
            use = RedisUse(redis.endpoint, redis.credentials[name], engines.key_prefix(name), required["redis"])
            args = replace(args, redis=use)
        if "rabbitmq" in required:
            args = replace(args, rabbitmq=RabbitmqUse(rabbitmq.endpoint, rabbitmq.credentials[name], name, required["rabbitmq"]))
        running[name] = Service(name, args, provider=provider, opts=ready).endpoint

    outputs.export(
        stack=stack,
        namespace=namespace.name,
        ca=certificates.ca,
        ca_pem=certificates.ca_pem,
        engines={name: outputs.Engine(engine.endpoint, engine.credentials) for name, engine in by_name.items()},
        services=running,
    )
    return Built(every_edge, demand)


def kubernetes(stack: str, settings: StackSettings) -> Provider:
    """The one provider: a context by name, never the kubeconfig's current one, and nothing of the kubeconfig in the state."""
    return Provider(
        "kubernetes",
        # An empty kubeconfig means the environment's; the SDK would otherwise copy its path into the state (pulumi-kubernetes#3217).
        kubeconfig="",
        context=settings.cluster.context,
        # A renewed kubeconfig must not replace every object (pulumi-kubernetes#2745).
        cluster_identifier=f"{settings.cluster.context}/{stack}",
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
    )


def namespace_args(stack: str, settings: StackSettings) -> NamespaceArgs:
    """The namespace of the stack."""
    return NamespaceArgs(settings.namespace_of(stack), stack, settings.cluster.pod_security_version, settings.retain_data)


def pull_secret(settings: StackSettings, at: Placement, provider: Provider, opts: pulumi.ResourceOptions) -> tuple[pulumi.Input[str], ...]:
    """The Secret that the pods pull their images with, where the settings have one."""
    if settings.images.pull_secret is None:
        return ()
    secret = core.v1.Secret(
        "image-pull",
        metadata=labels.metadata("image-pull", "image-pull", at),
        type="kubernetes.io/dockerconfigjson",
        string_data={".dockerconfigjson": pulumi.Output.secret(settings.images.pull_secret.get_secret_value())},
        opts=pulumi.ResourceOptions(provider=provider, depends_on=opts.depends_on),
    )
    return (secret.metadata.name.apply(str),)


def runtime_image(settings: StackSettings) -> pulumi.Input[str]:
    """The image of the platform's own services: the given one, or the built one by its digest."""
    if settings.images.build is None:
        return settings.images.runtime or ""  # the settings allow no third case
    return Image("runtime-image", ImageArgs(settings.images.build.repository, versions.GROUNDWORK)).reference


def cluster_issuer(settings: StackSettings, at: Placement, operator: Operator) -> Issuer:
    """The cluster as an issuer: the stack's ServiceAccounts own the services of their names, and the operator's may do more."""
    return Issuer(
        settings.cluster.issuer,
        settings.cluster.jwks_url,
        scopes=SERVICE_ACCOUNT_SCOPES,
        namespaces=(at.namespace,),
        operator=operator.subject,
        operator_scopes=operators.SCOPES,
    )


def common(settings: StackSettings, at: Placement, image: pulumi.Input[str], ca: pulumi.Input[str], issuer: Issuer) -> ServiceArgs:
    """What every service has: the profile, the CA, and the cluster as an issuer of tokens."""
    return ServiceArgs(at, image, ("-m", "app"), settings.profile, ca, issuers=(issuer,))


def needs(settings: StackSettings, each: engines.Engines) -> tuple[Demand, Resources]:
    """What everything in the namespace needs together, and the largest of its pods."""
    entries = (settings.registry, settings.config, *settings.services.values())
    services = [(engines.resources(entry.resources), entry.replicas) for entry in entries]
    total = sum((service.demand(size, replicas) for size, replicas in services), start=each.demand())
    sizes = (each.postgres.resources, each.redis.resources, each.rabbitmq.resources, each.consul.resources)
    return total, largest([*sizes, *(size for size, _ in services)])
