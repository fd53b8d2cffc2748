"""Redis: cache, rate-limit counters and other state that may be lost.

One server from the official image: TLS only, an access-list user for each client, an append-only file on a volume.
https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import pulumi
from pulumi_kubernetes import Provider, apps, core

from components import accounts, labels, stateful, workload
from components.contracts import Credentials, Edge, Endpoint, Placement, ServerTls
from components.workload import Demand, Resources

PORT = 6379
UID = 999  # the image's `redis` user
GID = 999
CONFIG = "/etc/groundwork"
DATA = "/data"
PORTS = (stateful.Port("redis", PORT),)
_ASK = f"redis-cli --tls --cacert {stateful.CA}/ca.crt -h localhost -p {PORT} --no-auth-warning --user probe --pass probe ping"
PROBE = f"{_ASK} | grep -q PONG"  # `ping` exits with 0 while the server is still loading its data, too: the answer counts
ALIVE = f"{_ASK} | grep -q ."  # any answer; a port that is only opened would be an error in Redis' log each time


@dataclass(frozen=True)
class RedisClient:
    """A user of Redis, and the keys and channels that it may touch, as access-list patterns without `~` and `&`."""

    name: str
    keys: tuple[str, ...]
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class RedisArgs:
    """What a Redis needs to know.

    The data may use three quarters of `resources.memory_mib`. `storage_gib` is fixed once the volume exists. `rotation` + 1 changes every
    client's password. With `retain_data` a destroy is refused, and volumes outlive the StatefulSet.
    """

    at: Placement
    image: str
    tls: ServerTls
    clients: tuple[RedisClient, ...]
    resources: Resources = field(default_factory=lambda: Resources(cpu_m=50, memory_mib=128))
    storage_gib: int = 1
    rotation: int = 1
    retain_data: bool = False

    def __post_init__(self) -> None:
        accounts.check_clients("redis", [client.name for client in self.clients])
        accounts.check_rotation("redis", self.rotation)
        stateful.check_storage("redis", self.storage_gib)
        for client in self.clients:
            if not client.keys:
                raise ValueError(f"redis.clients: {client.name} has no keys: name what it may touch, such as {client.name}:*")
            for pattern in (*client.keys, *client.channels):
                if not pattern or any(character.isspace() for character in pattern):
                    raise ValueError(f"redis.clients: {client.name} has the pattern {pattern!r}: leave out spaces, they would end the rule")
                if pattern.startswith("*"):
                    raise ValueError(f"redis.clients: {client.name} has the pattern {pattern!r}, which reaches the others' keys: begin with its own")
        if self.resources.memory_mib < 64:
            raise ValueError(f"redis.resources.memory_mib is {self.resources.memory_mib}: Redis needs at least 64")


def edges(name: str, args: RedisArgs) -> tuple[Edge, ...]:
    """The connections that the component itself makes: none, its accounts are a file."""
    del name, args
    return ()


def demand(args: RedisArgs) -> Demand:
    """What it needs of the namespace at most."""
    return Demand.of(args.resources, 1, claims=1, claim_gib=args.storage_gib)


def server_config(memory_mib: int) -> str:
    """redis.conf: TLS only, no default user, durable within a second, oldest entries with an expiry go first."""
    return f"""\
port 0
tls-port {PORT}
tls-cert-file {stateful.TLS}/tls.crt
tls-key-file {stateful.TLS}/tls.key
tls-ca-cert-file {stateful.CA}/ca.crt
tls-auth-clients no
tls-protocols "TLSv1.2 TLSv1.3"
protected-mode yes
aclfile {CONFIG}/users.acl
acl-pubsub-default resetchannels
dir {DATA}
appendonly yes
appendfsync everysec
save ""
maxmemory {memory_mib * 3 // 4}mb
maxmemory-policy volatile-lru
maxclients 1000
tcp-keepalive 60
"""


def access_list(clients: tuple[RedisClient, ...], passwords: Mapping[str, str]) -> str:
    """users.acl: each client sees only its own keys and channels and may not administer the server. Passwords stand as SHA-256.

    `probe` needs no password: it can do nothing but ask whether the server is there.
    """
    users = [
        " ".join(
            (
                f"user {client.name} on #{sha256(passwords[client.name].encode()).hexdigest()}",
                "resetkeys",
                *(f"~{pattern}" for pattern in sorted(client.keys)),
                "resetchannels",
                *(f"&{pattern}" for pattern in sorted(client.channels)),
                "+@all -@admin -@dangerous",
            )
        )
        for client in sorted(clients, key=lambda client: client.name)
    ]
    return "\n".join(("user default off", "user probe on nopass +ping", *users)) + "\n"


def ready(failures: int, period: int) -> core.v1.ProbeArgs:
    """Ready means PONG."""
    return workload.exec_probe(["sh", "-c", PROBE], period=period, timeout=3, failures=failures)


def alive() -> core.v1.ProbeArgs:
    """Alive means any answer within two minutes: a server that loads or works on a long script says so, and must not be restarted."""
    return workload.exec_probe(["sh", "-c", ALIVE], period=20, timeout=10, failures=6)


def container(args: RedisArgs, mounts: list[workload.Mount]) -> core.v1.ContainerArgs:
    """The server."""
    return core.v1.ContainerArgs(
        name="redis",
        image=args.image,
        command=["redis-server", f"{CONFIG}/redis.conf"],
        ports=stateful.container_ports(PORTS),
        startup_probe=ready(period=2, failures=150),  # a large append-only file takes minutes to load
        readiness_probe=ready(period=5, failures=2),
        liveness_probe=alive(),
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=[*workload.volume_mounts(mounts), stateful.data_mount(DATA)],
    )


def stateful_set(name: str, args: RedisArgs, config: pulumi.Input[str], content: pulumi.Input[str]) -> apps.v1.StatefulSetSpecArgs:
    """The one-replica workload."""
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_secret("config", CONFIG, config),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    pod = workload.pod(name, args.at, container=container(args, mounts), uid=UID, gid=GID, mounts=mounts, content=content, grace_seconds=30)
    return stateful.stateful_set(name, args.at, template=pod, storage_gib=args.storage_gib, retain_data=args.retain_data)


class Redis(pulumi.ComponentResource):
    """A Redis server.

    Outputs: `endpoint`; `credentials`, each client's by name; `ready`, which clients must depend on: their accounts exist then.
    """

    endpoint: Endpoint
    credentials: dict[str, Credentials]
    ready: pulumi.Resource

    def __init__(self, name: str, args: RedisArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:data:Redis", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        at = args.at

        issued = accounts.passwords(name, [client.name for client in args.clients], at=at, rotation=args.rotation, parent=self, provider=provider)
        redis_conf = server_config(args.resources.memory_mib)
        users = pulumi.Output.secret(pulumi.Output.all(**issued.secrets).apply(lambda known: access_list(args.clients, known)))
        config = core.v1.Secret(
            f"{name}-config",
            metadata=labels.metadata(f"{name}-config", name, at),
            string_data={"redis.conf": redis_conf, "users.acl": users},
            opts=child,
        )
        service = core.v1.Service(name, metadata=labels.metadata(name, name, at), spec=stateful.service(name, at, PORTS), opts=child)
        headless = core.v1.Service(
            f"{name}-headless", metadata=labels.metadata(f"{name}-headless", name, at), spec=stateful.headless(name, at, PORTS), opts=child
        )
        self.ready = apps.v1.StatefulSet(
            name,
            metadata=labels.metadata(name, name, at),
            spec=stateful_set(name, args, config.metadata.name.apply(str), workload.digest(redis_conf, users, args.tls.digest)),
            opts=pulumi.ResourceOptions(parent=self, provider=provider, protect=args.retain_data or None, depends_on=[headless]),
        )
        self.endpoint = Endpoint(host=stateful.host(service.metadata.name.apply(str), at), port=PORT, ca=args.tls.ca)
        self.credentials = issued.credentials
        self.register_outputs({"host": self.endpoint.host, "port": PORT})
