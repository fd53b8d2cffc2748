"""Redis: cache, rate-limit counters and other state that may be lost.

One server from the official image: TLS only, an access-list user for each client, an append-only file on a volume.
https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

import pulumi
from pulumi_kubernetes import Provider, core

from components.lib import accounts, engine, stateful, workload
from components.lib.contracts import Use
from components.lib.description import Description
from components.lib.engine import Engine, EngineArgs, Spec
from components.lib.problems import Problem, refuse
from components.lib.redis_rules import redis_rules

PORT = 6379
UID = 999  # the image's `redis` user
GID = 999
CONFIG = "/etc/groundwork"
DATA = "/data"
ADMIN = "admin"
BASE_DIR = "/run/groundwork/access-list"
BASE_FILE = "base.acl"
ACCESS_LIST = f"{DATA}/users.acl"  # on the volume: the accounts program changes it while the server runs, and a restart must find it
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


@dataclass(frozen=True, kw_only=True)
class RedisArgs(EngineArgs):
    """What a Redis needs to know besides. The data may use three quarters of `resources.memory_mib`."""

    clients: tuple[RedisClient, ...]

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from self.bad("redis", [client.name for client in self.clients], memory_mib=64)
        for client in self.clients:
            if not client.keys:
                what = f"{client.name} has no keys: name what it may touch, such as {client.name}:*"
                yield Problem("redis.clients", what, client=client.name)
            for pattern in (*client.keys, *client.channels):
                if not pattern or any(character.isspace() for character in pattern):
                    what = f"{client.name} has the pattern {pattern!r}: leave out spaces, they would end the rule"
                    yield Problem("redis.clients", what, client=client.name)
                if pattern.startswith(("*", "?", "[", "\\")):  # a glob from its first character on
                    what = f"{client.name} has the pattern {pattern!r}, which reaches the others' keys: begin with its own"
                    yield Problem("redis.clients", what, client=client.name)


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
aclfile {ACCESS_LIST}
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


def base_access_list(admin: str) -> str:
    """The lines of the access list that are there before any client's: nobody by default, the accounts program, and the probe.

    `probe` needs no password: it can do nothing but ask whether the server is there.
    """
    digest = sha256(admin.encode()).hexdigest()
    return f"user default off\nuser {ADMIN} on #{digest} +@all ~* &*\nuser probe on nopass +ping\n"


def prepare_access_list() -> str:
    """Puts the base lines in the place of those that the volume has, and leaves the clients' as they are."""
    kept = f"{{ [ ! -f {ACCESS_LIST} ] || grep -v -E '^user (default|{ADMIN}|probe) ' {ACCESS_LIST} || true; }}"
    return f"umask 077 && {kept} | cat {BASE_DIR}/{BASE_FILE} - > {ACCESS_LIST}.new && mv -f {ACCESS_LIST}.new {ACCESS_LIST}"


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


def prepare(args: RedisArgs, mounts: list[workload.Mount]) -> core.v1.ContainerArgs:
    """Runs before the server does, which refuses to start without its access list."""
    return core.v1.ContainerArgs(
        name="access-list",
        image=args.image,
        command=["sh", "-c", prepare_access_list()],
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=[*workload.volume_mounts(mounts), stateful.data_mount(DATA)],
    )


def pod(name: str, args: RedisArgs, content: pulumi.Input[str]) -> core.v1.PodTemplateSpecArgs:
    """The server's pod."""
    base = workload.from_secret("access-list", BASE_DIR, f"{name}-secrets", keys={BASE_FILE: BASE_FILE})
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_config_map("config", CONFIG, f"{name}-config"),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    return workload.pod(
        name,
        args.at,
        containers=[container(args, mounts)],
        init_containers=[prepare(args, [base])],
        uid=UID,
        gid=GID,
        mounts=[*mounts, base],
        content=content,
        grace_seconds=30,
    )


def desired(args: RedisArgs, passwords: Mapping[str, str]) -> Mapping[str, object]:
    """Which users the access list must have."""
    return {
        "admin": ADMIN,
        "clients": accounts.entries(
            args.rotation, passwords, {client.name: {"rules": redis_rules(client.keys, client.channels)} for client in args.clients}
        ),
    }


def spec(name: str, args: RedisArgs) -> Spec:
    """What is particular to Redis."""
    return Spec(
        type="groundwork:data:Redis",
        ports=PORTS,
        offered=PORTS,
        config={"redis.conf": server_config(args.resources.memory_mib)},
        own_secrets=("admin",),
        private=lambda own: {BASE_FILE: base_access_list(own["admin"])},
        admin=lambda own: own["admin"],
        pod=lambda content: pod(name, args, content),
        clients=tuple(client.name for client in args.clients),
        credential=accounts.credential(args.rotation),
        desired=lambda _own, passwords: desired(args, passwords),
        minute=6,
    )


def describe(name: str, args: RedisArgs) -> Description:
    """The server and the Jobs of its accounts."""
    return engine.describe(name, args, spec(name, args), init_containers=1)


def use(args: RedisArgs, client: RedisClient, *, key_prefix: str, required: bool) -> Use:
    """A service's use of its keys in Redis: those that begin with `key_prefix`."""
    return engine.use("redis", args, client.name, PORT, required=required, key_prefix=key_prefix)


class Redis(Engine):
    """A Redis server."""

    def __init__(self, name: str, args: RedisArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, spec(name, args), provider=provider, opts=opts)
