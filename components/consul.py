"""Consul: the catalog of services and their configuration. One server, or three that survive the loss of one.

Official image; TLS on the API and between the servers, gossip encrypted, access lists that deny by default. All secrets are known before
the servers exist, so nothing has to be bootstrapped. https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file
"""

from __future__ import annotations

import json
import re
import uuid
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256

import pulumi
from pulumi_kubernetes import Provider, apps, core, policy

from components import accounts, labels, stateful, workload
from components.contracts import Credentials, Edge, Endpoint, Placement, Protocol, ServerTls, Workload
from components.workload import Demand, Resources

PORT = 8501
RPC_PORT = 8300
SERF_PORT = 8301
UID = 100  # the image's `consul` user and group
GID = 1000
DATACENTER = "dc1"
CONFIG = "/etc/groundwork"
SECRETS = "/run/groundwork/consul"
DATA = "/consul/data"
SERVER_SAN = f"server.{DATACENTER}.consul"  # what servers verify of each other (verify_server_hostname)
API = stateful.Port("https", PORT, app_protocol="https")
PORTS = (
    API,
    stateful.Port("rpc", RPC_PORT, app_protocol="tcp"),
    stateful.Port("serf-tcp", SERF_PORT, app_protocol="tcp"),
    stateful.Port("serf-udp", SERF_PORT, Protocol.UDP, app_protocol="udp"),
)
# Without a leader a read of the catalog answers 500; with one it is 200 and, for the probe, empty. It needs no token and no program in the
# image. (`/v1/status/leader` answers 200 in both cases.)
PROBE_PATH = "/v1/catalog/services"
REGISTRY_NODE = "platform-registry"  # the catalog's node under which the registry files all services

_LIBRARY_IMAGE = re.compile(r"(docker\.io/)?(library/)?consul(:|@|$)")

Rules = dict[str, dict[str, dict[str, str]]]  # kind, name or prefix, `policy`


class ConsulRole(StrEnum):
    """What a client may do. Every role may read what READER reads."""

    READER = "reader"  # services, nodes and configuration: what a service that uses the platform needs
    REGISTRY_WRITER = "registry-writer"  # writes the catalog
    CONFIG_WRITER = "config-writer"  # writes configuration


@dataclass(frozen=True)
class ConsulClient:
    """A token, and what it may do."""

    name: str
    roles: tuple[ConsulRole, ...] = (ConsulRole.READER,)


@dataclass(frozen=True)
class ConsulArgs:
    """What Consul needs to know.

    `servers` is 1 or 3. `storage_gib` is fixed once the volumes exist. `rotation` + 1 gives every client a new token. With `retain_data` a
    destroy is refused, and volumes outlive the StatefulSet.
    """

    at: Placement
    image: str
    accounts_image: pulumi.Input[str]
    tls: ServerTls
    clients: tuple[ConsulClient, ...]
    servers: int = 1
    resources: Resources = field(default_factory=lambda: Resources(cpu_m=50, memory_mib=192))
    storage_gib: int = 1
    rotation: int = 1
    retain_data: bool = False

    def __post_init__(self) -> None:
        accounts.check_clients("consul", [client.name for client in self.clients])
        accounts.check_rotation("consul", self.rotation)
        stateful.check_storage("consul", self.storage_gib)
        if self.servers not in {1, 3}:
            raise ValueError(f"consul.servers is {self.servers}: use 1, or 3 to survive the loss of one")
        if _LIBRARY_IMAGE.match(self.image):
            raise ValueError(f"consul.image is {self.image}: that image ended with version 1.15, use hashicorp/consul at an exact version")
        for client in self.clients:
            if not client.roles:
                raise ValueError(f"consul.clients: {client.name} has no roles: give it at least {ConsulRole.READER}")
        if self.resources.memory_mib < 128:
            raise ValueError(f"consul.resources.memory_mib is {self.resources.memory_mib}: Consul needs at least 128")


def edges(name: str, args: ConsulArgs) -> tuple[Edge, ...]:
    """The connections that the component itself makes: its accounts Job, and servers with each other (gossip has a key of its own)."""
    job, server = Workload(f"{name}-accounts"), Workload(name)
    manage = (Edge(job, server, PORT, tls=True),)
    if args.servers == 1:
        return manage
    return (
        *manage,
        Edge(server, server, RPC_PORT, tls=True),
        Edge(server, server, SERF_PORT, tls=True),
        Edge(server, server, SERF_PORT, tls=True, protocol=Protocol.UDP),
    )


def demand(args: ConsulArgs) -> Demand:
    """What it needs of the namespace at most: the servers, their volumes, and the Jobs of the accounts."""
    return Demand.of(args.resources, args.servers, claims=args.servers, claim_gib=args.storage_gib) + accounts.demand()


def rules(roles: tuple[ConsulRole, ...]) -> Rules:
    """The access-list rules of a client, in Consul's JSON form."""
    granted: Rules = {
        "key_prefix": {"config/": {"policy": "read"}},
        "node_prefix": {"": {"policy": "read"}},
        "service_prefix": {"": {"policy": "read"}},
    }
    if ConsulRole.REGISTRY_WRITER in roles:
        granted["key_prefix"]["registry/"] = {"policy": "write"}
        granted["node"] = {REGISTRY_NODE: {"policy": "write"}}
        granted["service_prefix"][""] = {"policy": "write"}
        granted["service"] = {"consul": {"policy": "read"}}  # the servers' own entry is theirs
        granted["session_prefix"] = {"": {"policy": "write"}}
    if ConsulRole.CONFIG_WRITER in roles:
        granted["key_prefix"]["config/"] = {"policy": "write"}
    return granted


def agent_rules() -> Rules:
    """What the servers themselves need to keep their own entries in the catalog."""
    return {"node_prefix": {"": {"policy": "write"}}, "service_prefix": {"": {"policy": "read"}}}


def server_config(name: str, servers: int, namespace: str, cluster_domain: str) -> str:
    """server.json: everything but the secrets. Only the encrypted API and what servers need among themselves is open."""
    config: dict[str, object] = {
        "server": True,
        "bootstrap_expect": servers,
        "datacenter": DATACENTER,
        "data_dir": DATA,
        "client_addr": "0.0.0.0",  # noqa: S104 network policies decide who gets here
        "ports": {
            "http": -1,
            "https": PORT,
            "server": RPC_PORT,
            "serf_lan": SERF_PORT,
            "serf_wan": -1,
            "dns": -1,
            "grpc": -1,
            "grpc_tls": -1,
        },
        "tls": {
            "defaults": {
                "ca_file": f"{stateful.CA}/ca.crt",
                "cert_file": f"{stateful.TLS}/tls.crt",
                "key_file": f"{stateful.TLS}/tls.key",
                "tls_min_version": "TLSv1_2",
                "verify_outgoing": True,
            },
            "internal_rpc": {"verify_incoming": True, "verify_server_hostname": True},
            "https": {"verify_incoming": False},  # clients prove themselves by token
        },
        "acl": {"enabled": True, "default_policy": "deny", "down_policy": "extend-cache"},
        "connect": {"enabled": False},
        "performance": {"raft_multiplier": 1},
        "telemetry": {"prometheus_retention_time": "60s", "disable_hostname": True},
        "disable_update_check": True,
        # One server that left would come back to a cluster it is no member of. Of three, the others must not wait for one that is gone.
        "leave_on_terminate": servers > 1,
        "skip_leave_on_interrupt": servers == 1,
    }
    if servers > 1:
        config["retry_join"] = [f"{name}-headless.{namespace}.svc.{cluster_domain}"]
        config["retry_interval"] = "5s"  # a killed server's name is free for its new address only after half a minute
        config["autopilot"] = {"min_quorum": servers // 2 + 1}
    return json.dumps(config, sort_keys=True, indent=1)


def token(secret: str) -> str:
    """A token's secret id, which must be a UUID, from a random secret."""
    return str(uuid.UUID(bytes=sha256(secret.encode()).digest()[:16], version=4))


def gossip_key(secret: str) -> str:
    """The key of the gossip, 32 bytes as base64, from a random secret."""
    return b64encode(sha256(secret.encode()).digest()).decode()


def secret_config(management: str, agent: str, gossip: str) -> str:
    """secrets.json: the gossip key, the management token and the servers' own token."""
    return json.dumps({"acl": {"tokens": {"initial_management": management, "agent": agent}}, "encrypt": gossip}, sort_keys=True)


def ready(failures: int, period: int) -> core.v1.ProbeArgs:
    """Ready means that there is a leader."""
    return core.v1.ProbeArgs(
        http_get=core.v1.HTTPGetActionArgs(path=PROBE_PATH, port=PORT, scheme="HTTPS"),
        period_seconds=period,
        timeout_seconds=3,
        failure_threshold=failures,
    )


def container(args: ConsulArgs, mounts: list[workload.Mount]) -> core.v1.ContainerArgs:
    """A server. The image's entry point is left out: it would start a development agent, or change users."""
    return core.v1.ContainerArgs(
        name="consul",
        image=args.image,
        command=["consul", "agent", f"-config-file={CONFIG}/server.json", f"-config-file={SECRETS}/secrets.json", "-bind=$(POD_IP)"],
        env=[
            core.v1.EnvVarArgs(
                name="POD_IP",
                value_from=core.v1.EnvVarSourceArgs(field_ref=core.v1.ObjectFieldSelectorArgs(field_path="status.podIP", api_version="v1")),
            )
        ],
        ports=stateful.container_ports(PORTS),
        startup_probe=ready(period=2, failures=90),
        readiness_probe=ready(period=5, failures=2),
        liveness_probe=workload.tcp_probe(PORT, period=10, failures=6),
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=[*workload.volume_mounts(mounts), stateful.data_mount(DATA)],
    )


def stateful_set(
    name: str, args: ConsulArgs, config: pulumi.Input[str], secrets: pulumi.Input[str], content: pulumi.Input[str]
) -> apps.v1.StatefulSetSpecArgs:
    """The servers."""
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_config_map("config", CONFIG, config),
        workload.from_secret("secrets", SECRETS, secrets, keys={"secrets.json": "secrets.json"}),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    pod = workload.pod(
        name,
        args.at,
        container=container(args, mounts),
        uid=UID,
        gid=GID,
        mounts=mounts,
        content=content,
        replicas=args.servers,
        grace_seconds=30,
    )
    return stateful.stateful_set(name, args.at, template=pod, storage_gib=args.storage_gib, retain_data=args.retain_data, replicas=args.servers)


def state(args: ConsulArgs, host: str, agent: str, tokens: Mapping[str, str]) -> str:
    """accounts.json: what tokens and policies must exist. The schema is app/accounts/desired.py."""
    clients = sorted(args.clients, key=lambda client: client.name)
    return json.dumps(
        {
            "host": host,
            "port": PORT,
            "tokens": [
                {"name": "agent", "token": agent, "rules": agent_rules()},
                *({"name": client.name, "token": tokens[client.name], "rules": rules(client.roles)} for client in clients),
            ],
        },
        sort_keys=True,
    )


class Consul(pulumi.ComponentResource):
    """Consul servers.

    Outputs: `endpoint`; `credentials`, each client's by name; `ready`, which clients must depend on: their tokens exist then.
    """

    endpoint: Endpoint
    credentials: dict[str, Credentials]
    ready: pulumi.Resource

    def __init__(self, name: str, args: ConsulArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:discovery:Consul", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        at = args.at

        # Not rotated with the clients: the Job needs the first to rotate theirs, and the servers read it on empty volumes only.
        management = accounts.secret_value(f"{name}-management", parent=self).apply(token)
        agent = accounts.secret_value(f"{name}-agent", parent=self).apply(token)
        gossip = accounts.secret_value(f"{name}-gossip", parent=self).apply(gossip_key)
        secret_file = pulumi.Output.all(management, agent, gossip).apply(lambda known: secret_config(*known))
        secrets = core.v1.Secret(
            f"{name}-secrets",
            metadata=labels.metadata(f"{name}-secrets", name, at),
            string_data={"secrets.json": secret_file, "token": management},
            opts=child,
        )
        config_file = pulumi.Output.from_input(at.namespace).apply(lambda namespace: server_config(name, args.servers, namespace, at.cluster_domain))
        config = core.v1.ConfigMap(
            f"{name}-config", metadata=labels.metadata(f"{name}-config", name, at), data={"server.json": config_file}, opts=child
        )

        tokens: dict[str, pulumi.Output[str]] = {}
        self.credentials = {}
        for client in args.clients:
            client_name = f"{client.name}-{name}"
            secret_id = accounts.secret_value(client_name, parent=self, rotation=args.rotation).apply(token)
            secret = core.v1.Secret(client_name, metadata=labels.metadata(client_name, name, at), string_data={"token": secret_id}, opts=child)
            tokens[client.name] = secret_id
            self.credentials[client.name] = Credentials(secret=secret.metadata.name.apply(str), digest=workload.digest(secret_id))

        service = core.v1.Service(name, metadata=labels.metadata(name, name, at), spec=stateful.service(name, at, (API,)), opts=child)
        headless = core.v1.Service(
            f"{name}-headless", metadata=labels.metadata(f"{name}-headless", name, at), spec=stateful.headless(name, at, PORTS), opts=child
        )
        server = apps.v1.StatefulSet(
            name,
            metadata=labels.metadata(name, name, at),
            spec=stateful_set(
                name,
                args,
                config.metadata.name.apply(str),
                secrets.metadata.name.apply(str),
                workload.digest(config_file, secret_file, args.tls.digest),
            ),
            opts=pulumi.ResourceOptions(parent=self, provider=provider, protect=args.retain_data or None, depends_on=[headless]),
        )
        if args.servers > 1:
            policy.v1.PodDisruptionBudget(name, metadata=labels.metadata(name, name, at), spec=workload.disruption_budget(name, at.stack), opts=child)

        host = stateful.host(service.metadata.name.apply(str), at)
        desired = pulumi.Output.all(host=host, agent=agent, tokens=pulumi.Output.all(**tokens)).apply(
            lambda known: state(args, known["host"], known["agent"], known["tokens"])
        )
        self.ready = accounts.apply(
            name,
            accounts.AccountsArgs(at=at, program="consul", image=args.accounts_image, ca=args.tls.ca, state=desired, admin=management, minute=7),
            parent=self,
            provider=provider,
            depends_on=[server],
        )
        self.endpoint = Endpoint(host=host, port=PORT, ca=args.tls.ca)
        self.register_outputs({"host": self.endpoint.host, "port": PORT})
