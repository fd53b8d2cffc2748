"""The whole platform, top to bottom: the wiring and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pulumi
from pulumi_kubernetes import Provider, core

from components import service
from components.certificates import Certificates, CertificatesArgs, Server
from components.image import Image, ImageArgs
from components.lib import labels, versions
from components.lib.contracts import Edge, Placement, Workload
from components.lib.description import Demand, together
from components.lib.engine import Found
from components.namespace import Namespace, NamespaceArgs
from components.network import Network, NetworkArgs
from components.operator_account import OperatorAccount, OperatorAccountArgs
from components.quota import Quota, QuotaArgs, Room
from components.retirement import Retirement
from components.service import Service
from stacks import edges, outputs, services
from stacks.catalog import ENGINES
from stacks.cluster.effective import effective
from stacks.cluster.facts import ClusterFacts
from stacks.kind import Given, part
from stacks.services import Shared
from stacks.settings import StackSettings


@dataclass(frozen=True)
class Built:
    """What `build` knows beyond the resources it registered: for plans, pictures and tests."""

    edges: tuple[Edge, ...]
    demand: Demand
    services: Mapping[str, service.ServiceArgs]


def build(stack: str, settings: StackSettings, facts: ClusterFacts, *, raise_quota: pulumi.ResourceHook | None = None) -> Built:
    """Registers everything that the stack is made of. `raise_quota` makes room before anything is deployed; a plan needs none."""
    identity = cluster_identity(stack, settings, facts)
    provider = kubernetes(settings, identity)
    cluster = effective(settings.cluster, facts)

    namespace = Namespace("namespace", namespace_args(stack, settings, identity), provider=provider)
    within = pulumi.ResourceOptions(depends_on=[namespace])
    at = Placement(stack, settings.namespace_of(stack), namespace.name, settings.cluster.domain, settings.cluster.storage_class)
    at = replace(at, pull_secrets=pull_secret(settings, at, provider, within))
    runtime = runtime_image(settings)
    certificates = Certificates("certificates", certificates_args(settings, at), provider=provider, opts=within)
    OperatorAccount("operator", OperatorAccountArgs(at), provider=provider, opts=within)

    given = Given(at, runtime, certificates.tls, found(facts))
    engines = {kind.name: part(kind, settings, given) for kind in ENGINES.values()}
    shared = Shared(at, runtime, certificates.ca, services.issuer(cluster, at), settings.profile)
    http = services.arguments(settings, shared, engines)

    whole = together([*(engine.describe() for engine in engines.values()), *(service.describe(name, args) for name, args in http.items())])
    offered = [(at.workload(name), args.port) for name, args in http.items()]
    every_edge = (
        *whole.edges,
        *edges.of_names(cluster, edges.clients(whole.edges)),
        *edges.of_token_keys(cluster, [workload for workload, _ in offered]),
        *edges.of_operators(settings.cluster.operator_cidrs, offered, engine_ports(whole.edges, at)),
    )
    network = Network("network", NetworkArgs(at, every_edge, cluster.network_plugin), provider=provider, opts=within)
    needed = QuotaArgs(at, whole.demand)
    room = Room("room", needed, raise_quota=raise_quota, provider=provider, opts=within)

    fenced: list[pulumi.Resource] = [namespace, network, room, certificates]
    running = {name: engine.build(provider, pulumi.ResourceOptions(depends_on=fenced)) for name, engine in engines.items()}
    deployed: dict[str, Service] = {}
    for name, args in http.items():
        used = [running[use.kind] for use in args.uses]
        rolled_by = (certificates.ca_digest, *(engine.digests[name] for engine in used))
        ready = pulumi.ResourceOptions(depends_on=[*fenced, *(resource for engine in used for resource in engine.ready)])
        deployed[name] = Service(name, replace(args, rolled_by=rolled_by), provider=provider, opts=ready)
    rolled = pulumi.ResourceOptions(depends_on=list(deployed.values()))
    retired = [Retirement(f"{name}-retirement", engine.accounts, provider=provider, opts=rolled) for name, engine in running.items()]
    Quota("quota", needed, provider=provider, opts=pulumi.ResourceOptions(depends_on=[*running.values(), *deployed.values(), *retired]))

    outputs.export(
        stack=stack,
        namespace=namespace.name,
        certificates=certificates,
        engines={name: outputs.EngineOutputs(engine.endpoint, part_credentials(http, name)) for name, engine in running.items()},
        services={name: made.endpoint for name, made in deployed.items()},
        runtime_image=runtime,
    )
    return Built(every_edge, whole.demand, http)


def cluster_identity(stack: str, settings: StackSettings, facts: ClusterFacts) -> str:
    """What the provider takes the cluster for: its UID, whatever a kubeconfig calls it. A change of it would replace every object.

    Version 0.1 took the context's name, and said so nowhere: a stack that it made keeps that, written down in its namespace.
    """
    there: Mapping[str, str] = facts.namespace.annotations if facts.namespace else {}
    old = f"{settings.cluster.context}/{stack}"
    return there.get(labels.CLUSTER) or (facts.uid if facts.namespace is None or labels.ROTATION in there else old)


def kubernetes(settings: StackSettings, identity: str) -> Provider:
    """The one provider: a context by name, never the kubeconfig's current one, and nothing of the kubeconfig in the state."""
    return Provider(
        "kubernetes",
        # An empty kubeconfig means the environment's; the SDK would otherwise copy its path into the state (pulumi-kubernetes#3217).
        kubeconfig="",
        context=settings.cluster.context,
        # What a cluster is, whatever a kubeconfig calls it: a renamed context must not replace every object (pulumi-kubernetes#2745).
        cluster_identifier=identity,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
    )


def namespace_args(stack: str, settings: StackSettings, identity: str) -> NamespaceArgs:
    """The namespace of the stack."""
    return NamespaceArgs(
        settings.namespace_of(stack),
        stack,
        settings.cluster.pod_security_version,
        rotation=settings.rotation,
        cluster=identity,
        authority=settings.certificates.authority,
        trusted=settings.certificates.trusted,
        retain_data=settings.retain_data,
    )


def certificates_args(settings: StackSettings, at: Placement) -> CertificatesArgs:
    """A certificate for each engine."""
    servers = tuple(Server(kind.name, kind.dns_names) for kind in ENGINES.values())
    return CertificatesArgs(at, servers, settings.certificates.authority, settings.certificates.trusted)


def found(facts: ClusterFacts) -> dict[str, Found]:
    """What the cluster already has of each engine: the Secret that opens its volumes, and the Jobs that it has seen succeed."""
    return {
        kind: Found({key: value.get_secret_value() for key, value in facts.kept.get(f"{kind}-secrets", {}).items()}, facts.done_jobs)
        for kind in ENGINES
    }


def engine_ports(every: tuple[Edge, ...], at: Placement) -> list[tuple[Workload, int]]:
    """The ports of the engines that anybody calls."""
    servers = {at.workload(kind) for kind in ENGINES}
    called = {
        (edge.server, edge.port) for edge in every if isinstance(edge.server, Workload) and edge.server in servers and edge.client != edge.server
    }
    return sorted(called, key=lambda offered: (offered[0].name, offered[1]))


def part_credentials(http: Mapping[str, service.ServiceArgs], kind: str) -> dict[str, str]:
    """The name of each service's credentials for one engine."""
    return {name: use.credentials.secret for name, args in http.items() for use in args.uses if use.kind == kind}


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
    build = settings.images.build
    if build is None:
        return settings.images.runtime or ""  # the settings allow no third case
    return Image("runtime-image", ImageArgs(build.repository, versions.GROUNDWORK, build.platform)).reference
