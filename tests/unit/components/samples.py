"""The four engines with two clients each, and what their graphs look like."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.consul import Consul, ConsulArgs, ConsulClient, ConsulRole
from components.lib.contracts import Placement, ServerTls
from components.postgres import Postgres, PostgresArgs, PostgresClient
from components.rabbitmq import RabbitMQ, RabbitmqArgs, RabbitmqClient
from components.redis import Redis, RedisArgs, RedisClient
from tests.unit.recording import Graph, Registered, record

AT = Placement(stack="dev", namespace="groundwork-dev")
RUNTIME = "localhost/groundwork:1"


def tls(name: str, digest: str = "certificate-1") -> ServerTls:
    return ServerTls(secret=f"{name}-tls", ca="groundwork-ca", digest=digest)


POSTGRES = PostgresArgs(
    AT,
    image="postgres:17.11-bookworm",
    accounts_image=RUNTIME,
    tls=tls("postgres"),
    clients=(PostgresClient("orders", "orders"), PostgresClient("billing", "billing")),
)
REDIS = RedisArgs(
    AT, image="redis:7.2.16-bookworm", tls=tls("redis"), clients=(RedisClient("orders", ("orders:*",)), RedisClient("billing", ("billing:*",)))
)
RABBITMQ = RabbitmqArgs(
    AT,
    image="rabbitmq:4.3.5-management",
    accounts_image=RUNTIME,
    tls=tls("rabbitmq"),
    clients=(RabbitmqClient("orders", "orders"), RabbitmqClient("billing", "billing")),
)
CONSUL = ConsulArgs(
    AT,
    image="hashicorp/consul:1.22.7",
    accounts_image=RUNTIME,
    tls=tls("consul"),
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


Component = Postgres | Redis | RabbitMQ | Consul
Args = PostgresArgs | RedisArgs | RabbitmqArgs | ConsulArgs


def component(args: Args, provider: k8s.Provider) -> Component:
    match args:
        case PostgresArgs():
            return Postgres("postgres", args, provider=provider)
        case RedisArgs():
            return Redis("redis", args, provider=provider)
        case RabbitmqArgs():
            return RabbitMQ("rabbitmq", args, provider=provider)
        case ConsulArgs():
            return Consul("consul", args, provider=provider)


@cache
def graph(args: Args) -> Graph:
    """What the component registers and, as the stack's outputs, what it gives. Made once for each arguments: it is only read."""
    return record(lambda: export(component(args, k8s.Provider("k8s", kubeconfig="", context="c"))))


def export(made: Component) -> None:
    """The component's outputs as the stack's, so that a test can read them."""
    pulumi.export("host", made.endpoint.host)
    pulumi.export("port", made.endpoint.port)
    pulumi.export("credentials", {name: {"secret": c.secret, "digest": c.digest} for name, c in made.credentials.items()})


def server(graph: Graph) -> Registered:
    """The only StatefulSet."""
    (found,) = graph.of_type("StatefulSet")
    return found


def accounts(graph: Graph, name: str) -> dict[str, Any]:
    """accounts.json as the Job mounts it."""
    return json.loads(graph.one("Secret", f"{name}-accounts")["stringData"]["accounts.json"])
