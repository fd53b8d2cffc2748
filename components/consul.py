"""Consul: the catalog of services and their configuration. One server, or three that survive the loss of one.

Official image; TLS on the API and between the servers, gossip encrypted, access lists that deny by default. All secrets are known before
the servers exist, so nothing has to be bootstrapped. https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file
"""

from __future__ import annotations

import json
import re
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

import pulumi
from pulumi_kubernetes import Provider, core

from components.lib import engine, stateful, workload
from components.lib.contracts import Edge, Endpoint, Protocol, Transport, Use
from components.lib.description import Description
from components.lib.engine import MOUNT, Engine, EngineArgs, Spec
from components.lib.problems import Problem, refuse

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
# Ready means that this server votes and knows a leader: one that is still catching up would be counted for a quorum that it is not part of,
# and one of a cluster without a quorum answers nothing. Asked of the server itself (`-stale`), for there may be no leader to ask.
VOTES = f"""CONSUL_HTTP_ADDR=https://127.0.0.1:{PORT} CONSUL_CACERT={stateful.CA}/ca.crt CONSUL_HTTP_TOKEN_FILE={SECRETS}/token \
consul operator raft list-peers -stale | {{
while read -r node _ _ state voter _; do
  [ "$state" = leader ] && led=yes
  [ "$node $voter" = "$HOSTNAME true" ] && votes=yes
done
[ "$led $votes" = "yes yes" ]
}}"""
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


@dataclass(frozen=True, kw_only=True)
class ConsulArgs(EngineArgs):
    """What Consul needs to know besides. `servers` is 1 or 3; servers that are `apart` never share a node."""

    clients: tuple[ConsulClient, ...]
    servers: int = 1
    apart: bool = False

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from self.bad("consul", [client.name for client in self.clients], memory_mib=128)
        if self.servers not in {1, 3}:
            yield Problem("consul.servers", "use 1, or 3 to survive the loss of one", self.servers)
        if _LIBRARY_IMAGE.match(self.image):
            yield Problem("images.consul", "that image ended with version 1.15, use hashicorp/consul at an exact version", self.image)
        for client in self.clients:
            if not client.roles:
                yield Problem("consul.clients", f"{client.name} has no roles: give it at least {ConsulRole.READER}", client=client.name)


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
    """Ready means that this server votes, and has a leader."""
    return workload.exec_probe(["sh", "-c", VOTES], period=period, timeout=5, failures=failures)


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
        readiness_probe=ready(period=10, failures=2),
        liveness_probe=workload.tcp_probe(PORT, period=10, failures=6),
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=[*workload.volume_mounts(mounts), stateful.data_mount(DATA)],
    )


def pod(name: str, args: ConsulArgs, content: pulumi.Input[str]) -> core.v1.PodTemplateSpecArgs:
    """A server's pod."""
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_config_map("config", CONFIG, f"{name}-config"),
        workload.from_secret("secrets", SECRETS, f"{name}-secrets", keys={"secrets.json": "secrets.json", "token": "token"}),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    return workload.pod(
        name,
        args.at,
        containers=[container(args, mounts)],
        uid=UID,
        gid=GID,
        mounts=mounts,
        content=content,
        replicas=args.servers,
        apart=args.apart,
        grace_seconds=30,
    )


def private(own: Mapping[str, str]) -> Mapping[str, str]:
    """The files with secrets: what the servers read, and the management token as they and the probe know it."""
    management, agent = token(own["management"]), token(own["agent"])
    return {"secrets.json": secret_config(management, agent, gossip_key(own["gossip"])), "token": management}


def desired(name: str, args: ConsulArgs, own: Mapping[str, str], secrets: Mapping[str, str]) -> Mapping[str, object]:
    """What tokens and policies must exist, and which servers there are."""
    clients = sorted(args.clients, key=lambda client: client.name)
    return {
        "servers": [stateful.pod_host(name, args.at, ordinal) for ordinal in range(args.servers)],
        "tokens": [
            {"name": "agent", "token": token(own["agent"]), "rules": agent_rules()},
            *({"name": client.name, "token": token(secrets[client.name]), "rules": rules(client.roles)} for client in clients),
        ],
    }


def among(name: str, args: ConsulArgs) -> tuple[Edge, ...]:
    """What servers say to each other, where there are several. Gossip has a key of its own."""
    if args.servers == 1:
        return ()
    server = args.at.workload(name)
    return (
        Edge(server, server, RPC_PORT, Transport.OWN_TLS),
        Edge(server, server, SERF_PORT, Transport.OWN_TLS),
        Edge(server, server, SERF_PORT, Transport.OWN_TLS, protocol=Protocol.UDP),
    )


def spec(name: str, args: ConsulArgs) -> Spec:
    """What is particular to Consul."""
    return Spec(
        type="groundwork:discovery:Consul",
        ports=PORTS,
        offered=(API,),
        config={"server.json": server_config(name, args.servers, args.at.namespace, args.at.cluster_domain)},
        own_secrets=("management", "agent", "gossip"),
        private=private,
        admin=lambda own: token(own["management"]),
        pod=lambda content: pod(name, args, content),
        clients=tuple(client.name for client in args.clients),
        credential=lambda _client, secret: {"token": token(secret)},
        desired=lambda own, secrets: desired(name, args, own, secrets),
        minute=7,
        servers=args.servers,
        among=among(name, args),
    )


def describe(name: str, args: ConsulArgs) -> Description:
    """The servers and the Jobs of their accounts."""
    return engine.describe(name, args, spec(name, args))


def use(args: ConsulArgs, client: ConsulClient, *, required: bool) -> Use:
    """A service's use of Consul, with a token of its own."""
    endpoint = Endpoint(args.at.host("consul"), PORT, args.tls.ca)
    settings = {"address": f"https://{endpoint.host}:{PORT}", "ca": f"{MOUNT}/ca.crt", "token_file": f"{MOUNT}/consul/token"}
    return Use("consul", args.at.workload("consul"), endpoint, engine.credentials("consul", client.name, "token"), settings, required)


class Consul(Engine):
    """Consul servers."""

    def __init__(self, name: str, args: ConsulArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, spec(name, args), provider=provider, opts=opts)
