"""The whole platform, top to bottom: the wiring and nothing else."""

from __future__ import annotations

import json

import pulumi
from pulumi_kubernetes import Provider, core

from components import labels, postgres, rabbitmq, redis
from components import consul as consuls
from components.certificates import Certificates, CertificatesArgs, Server
from components.consul import Consul, ConsulArgs, ConsulClient, ConsulRole
from components.contracts import Endpoint, Placement
from components.image import Image, ImageArgs
from components.namespace import Namespace, NamespaceArgs
from components.network import Network, NetworkArgs
from components.postgres import Postgres, PostgresArgs, PostgresClient
from components.quota import Quota, QuotaArgs, largest
from components.rabbitmq import Rabbitmq, RabbitmqArgs, RabbitmqClient
from components.redis import Redis, RedisArgs, RedisClient
from components.service import ConsulUse, Issuer, PostgresUse, RabbitmqUse, RedisUse, Service, ServiceArgs, demand
from components.workload import Demand, Resources
from stacks import edges, outputs, preflight
from stacks.settings import PLATFORM_SERVICES, ReplicatedSettings, ResourceSettings, StackSettings, load


def kubernetes(stack: str, settings: StackSettings) -> Provider:
    """The one provider: a context by name, never the kubeconfig's current one, and nothing of the kubeconfig in the state."""
    return Provider(
        "kubernetes",
        # An empty kubeconfig means the one of the environment; the SDK would otherwise copy its path into the state (pulumi-kubernetes#3217).
        kubeconfig="",
        context=settings.cluster.context,
        cluster_identifier=f"{settings.cluster.context}/{stack}",  # a renewed kubeconfig must not replace every object (pulumi-kubernetes#2745)
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
    )


def resources(settings: ResourceSettings) -> Resources:
    """A pod's resources as the components know them."""
    return Resources(cpu_m=settings.cpu_m, memory_mib=settings.memory_mib, cpu_limit_m=settings.cpu_limit_m)


def pull_secret(settings: StackSettings, at: Placement, provider: Provider, opts: pulumi.ResourceOptions) -> tuple[pulumi.Input[str], ...]:
    """The Secret that the pods pull their images with, where the settings have one."""
    if settings.images.pull_secret is None:
        return ()
    secret = core.v1.Secret(
        "image-pull",
        metadata=labels.metadata("image-pull", "image-pull", at),
        type="kubernetes.io/dockerconfigjson",
        string_data={".dockerconfigjson": pulumi.Output.secret(settings.images.pull_secret.get_secret_value())},
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=provider)),
    )
    return (secret.metadata.name.apply(str),)
