"""The four engines with two clients each, and what their graphs look like."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

import components.consul
import components.postgres
import components.rabbitmq
import components.redis
from components.consul import Consul, ConsulArgs, ConsulClient, ConsulRole
from components.lib.contracts import Placement, ServerTls
from components.lib.description import Description
from components.lib.engine import Engine
from components.lib.workload import Resources
from components.postgres import Postgres, PostgresArgs, PostgresClient
from components.rabbitmq import RabbitMQ, RabbitmqArgs, RabbitmqClient
from components.redis import Redis, RedisArgs, RedisClient
from components.retirement import Retirement
from tests.unit.recording import Graph, Registered, record

AT = Placement(stack="dev", namespace="groundwork-dev")
RUNTIME = "localhost/groundwork:1"
CERTIFICATE = "a" * 64
RENEWED = "b" * 64


def tls(name: str, fingerprint: str = CERTIFICATE) -> ServerTls:
    return ServerTls(secret=f"{name}-tls", ca="groundwork-ca", fingerprint=fingerprint)


POSTGRES = PostgresArgs(
    at=AT,
    image="postgres:17.11-bookworm",
    accounts_image=RUNTIME,
    tls=tls("postgres"),
    resources=Resources(cpu_m=100, memory_mib=256),
    clients=(PostgresClient("orders", "orders"), PostgresClient("billing", "billing")),
)
REDIS = RedisArgs(
    at=AT,
    image="redis:7.2.16-bookworm",
    accounts_image=RUNTIME,
    tls=tls("redis"),
    resources=Resources(cpu_m=50, memory_mib=128),
    clients=(RedisClient("orders", ("orders:*",)), RedisClient("billing", ("billing:*",))),
)
RABBITMQ = RabbitmqArgs(
    at=AT,
    image="rabbitmq:4.3.5-management",
    accounts_image=RUNTIME,
    tls=tls("rabbitmq"),
    resources=Resources(cpu_m=100, memory_mib=512),
    clients=(RabbitmqClient("orders", "orders"), RabbitmqClient("billing", "billing")),
)
CONSUL = ConsulArgs(
    at=AT,
    image="hashicorp/consul:1.22.7",
    accounts_image=RUNTIME,
    tls=tls("consul"),
    resources=Resources(cpu_m=50, memory_mib=192),
    clients=(ConsulClient("orders"), ConsulClient("registry", (ConsulRole.REGISTRY_WRITER,))),
)


def postgres(*clients: PostgresClient, **changes: object) -> PostgresArgs:
    return replace(POSTGRES, clients=clients or POSTGRES.clients, **changes)


def redis(*clients: RedisClient, **changes: object) -> RedisArgs:
    return replace(REDIS, clients=clients or REDIS.clients, **changes)


def rabbitmq(*clients: RabbitmqClient, **changes: object) -> RabbitmqArgs:
    return replace(RABBITMQ, clients=clients or RABBITMQ.clients, **changes)


def consul(*clients: ConsulClient, **changes: object) -> ConsulArgs:
    return replace(CONSUL, clients=clients or CONSUL.clients, **changes)


Args = PostgresArgs | RedisArgs | RabbitmqArgs | ConsulArgs
MAKERS: Mapping[str, Callable[..., Args]] = {"postgres": postgres, "redis": redis, "rabbitmq": rabbitmq, "consul": consul}
PROVIDER = "k8s"
GRAPHS: dict[str, Graph] = {}


def component(args: Args, provider: k8s.Provider) -> Engine:
    match args:
        case PostgresArgs():
            return Postgres("postgres", args, provider=provider)
        case RedisArgs():
            return Redis("redis", args, provider=provider)
        case RabbitmqArgs():
            return RabbitMQ("rabbitmq", args, provider=provider)
        case ConsulArgs():
            return Consul("consul", args, provider=provider)


def describe(args: Args) -> Description:
    match args:
        case PostgresArgs():
            return components.postgres.describe("postgres", args)
        case RedisArgs():
            return components.redis.describe("redis", args)
        case RabbitmqArgs():
            return components.rabbitmq.describe("rabbitmq", args)
        case ConsulArgs():
            return components.consul.describe("consul", args)


def graph(args: Args) -> Graph:
    """What the component and its retirement register and, as the stack's outputs, what it gives. Made once for each arguments: it is only read."""

    def build() -> None:
        provider = k8s.Provider(PROVIDER, kubeconfig="", context="c")
        made = component(args, provider)
        Retirement(f"{made.accounts.engine}-retirement", made.accounts, provider=provider)
        export(made)

    key = repr(args)
    if key not in GRAPHS:
        GRAPHS[key] = record(build)
    return GRAPHS[key]


def export(made: Engine) -> None:
    """The component's outputs as the stack's, so that a test can read them."""
    pulumi.export("host", made.endpoint.host)
    pulumi.export("port", made.endpoint.port)
    pulumi.export("digests", made.digests)
    pulumi.export("ready", [resource.urn for resource in made.ready])


def server(graph: Graph) -> Registered:
    """The only StatefulSet."""
    (found,) = graph.of_type("StatefulSet")
    return found


def pod(graph: Graph) -> dict[str, Any]:
    """The server's pod."""
    return server(graph)["spec.template.spec"]


def main(graph: Graph) -> dict[str, Any]:
    """The server's container."""
    (container,) = pod(graph)["containers"]
    return container


def jobs(graph: Graph) -> tuple[Registered, Registered]:
    """The Job that adds accounts, and the one that retires old ones."""
    names = {job.name: job for job in graph.of_type("Job")}
    (name,) = (name for name in names if not name.endswith("-retire"))
    return names[name], names[f"{name}-retire"]


def accounts(graph: Graph, name: str, *, retire: bool = False) -> dict[str, Any]:
    """accounts.json as the Job mounts it."""
    return json.loads(graph.one("Secret", f"{name}-accounts{'-retire' if retire else ''}")["stringData"]["accounts.json"])
