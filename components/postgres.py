"""PostgreSQL: each client's own database, of which it is the owner and nobody else may connect to.

One server from the official image: TLS only, passwords as SCRAM-SHA-256, data checksums, a volume of its own.
https://www.postgresql.org/docs/17/auth-pg-hba-conf.html, https://hub.docker.com/_/postgres
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, core

from components.lib import accounts, engine, stateful, workload
from components.lib.contracts import Use
from components.lib.description import Description
from components.lib.engine import Engine, EngineArgs, Spec
from components.lib.problems import Problem, refuse

PORT = 5432
UID = 999  # the image's `postgres` user
GID = 999
ADMIN = "postgres"
CONFIG = "/etc/groundwork"
ADMIN_DIR = "/run/groundwork/admin"
DATA = "/var/lib/postgresql/data"
SOCKETS = "/var/run/postgresql"
PORTS = (stateful.Port("postgres", PORT, app_protocol="tcp"),)  # TLS begins inside of PostgreSQL's own protocol
RESERVED_CONNECTIONS = 20
CONNECTION_STEP = 50
SHM = "/dev/shm"  # noqa: S108 the runtime's own is 64 MiB, which a parallel query or a larger VACUUM fills: "could not resize shared memory segment"
SYSTEM_DATABASES = frozenset({"postgres", "template0", "template1"})
SYSTEM_ROLES = frozenset({"public", "none"})  # CREATE ROLE refuses these, quoted too; a name with `pg_` cannot come up

# Over TCP: while the entry point prepares a new volume, only the socket is open.
PROBE = ("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(PORT), "-U", ADMIN, "-d", "postgres", "-t", "2")

_DATABASE = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# Whatever no line names is refused: above all every connection without TLS. The socket is for the entry point, which creates the
# cluster at the first start, and asks for the password too.
HBA = """\
local   all all     scram-sha-256
hostssl all all all scram-sha-256
"""


@dataclass(frozen=True)
class PostgresClient:
    """A service, the database that is its own, and how many connections its pods hold together at most."""

    name: str
    database: str
    connections: int = 10


@dataclass(frozen=True, kw_only=True)
class PostgresArgs(EngineArgs):
    """What a PostgreSQL needs to know besides.

    A quarter of `resources.memory_mib` is shared buffers. `max_connections` None means as many as the clients need, in steps, so that a
    service that grows by a pod restarts no database.
    """

    clients: tuple[PostgresClient, ...]
    max_connections: int | None = None

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from self.bad("postgres", [client.name for client in self.clients], memory_mib=128)
        for client in self.clients:
            if client.name in SYSTEM_ROLES:
                yield Problem("postgres.clients", f"the role {client.name} belongs to PostgreSQL itself: choose another name", client=client.name)
            if not _DATABASE.fullmatch(client.database):
                what = f"{client.database!r} cannot be a database: use at most 63 of a-z, 0-9 and _, a letter first"
                yield Problem("postgres.clients", what, client=client.name)
            if client.database in SYSTEM_DATABASES:
                what = f"database {client.database} belongs to PostgreSQL itself: choose another name"
                yield Problem("postgres.clients", what, client=client.name)
        for database, count in Counter(client.database for client in self.clients).items():
            if count > 1:
                yield Problem("postgres.clients", f"database {database} has {count} owners: give each client a database of its own")
        if self.max_connections is not None and self.max_connections < self.needed_connections:
            yield Problem(
                "postgres.max_connections",
                f"the services' pools may open {self.needed_connections}: raise it, lower pool_size or replicas of a service, or leave it out",
                self.max_connections,
            )

    @property
    def needed_connections(self) -> int:
        """All pools at their fullest, and what the accounts program and an administrator need besides."""
        return sum(client.connections for client in self.clients) + RESERVED_CONNECTIONS

    @property
    def connections(self) -> int:
        """How many connections the server takes."""
        return self.max_connections or max(100, -(-self.needed_connections // CONNECTION_STEP) * CONNECTION_STEP)


def server_config(memory_mib: int, max_connections: int) -> str:
    """postgresql.conf, whole: nothing depends on what was the default when the volume was made."""
    return f"""\
listen_addresses = '*'
port = {PORT}
unix_socket_directories = '{SOCKETS}'
hba_file = '{CONFIG}/pg_hba.conf'
ssl = on
ssl_cert_file = '{stateful.TLS}/tls.crt'
ssl_key_file = '{stateful.TLS}/tls.key'
ssl_min_protocol_version = 'TLSv1.2'
password_encryption = 'scram-sha-256'
authentication_timeout = '10s'
max_connections = {max_connections}
shared_buffers = '{memory_mib // 4}MB'
effective_cache_size = '{memory_mib // 2}MB'
huge_pages = off
timezone = 'UTC'
log_timezone = 'UTC'
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
"""


def ready(failures: int, period: int) -> core.v1.ProbeArgs:
    """Ready means that the server accepts connections."""
    return workload.exec_probe(PROBE, period=period, timeout=3, failures=failures)


def container(args: PostgresArgs, mounts: list[workload.Mount]) -> core.v1.ContainerArgs:
    """The server. The password is the administrator's alone, and only for a new volume."""
    return core.v1.ContainerArgs(
        name="postgres",
        image=args.image,
        args=["postgres", "-c", f"config_file={CONFIG}/postgresql.conf"],
        env=[
            core.v1.EnvVarArgs(name="PGDATA", value=f"{DATA}/pgdata"),  # below the mount: a volume's root may hold lost+found
            core.v1.EnvVarArgs(name="POSTGRES_USER", value=ADMIN),
            core.v1.EnvVarArgs(name="POSTGRES_PASSWORD_FILE", value=f"{ADMIN_DIR}/password"),
            core.v1.EnvVarArgs(name="POSTGRES_INITDB_ARGS", value="--auth=scram-sha-256 --data-checksums --encoding=UTF8"),
        ],
        ports=stateful.container_ports(PORTS),
        startup_probe=ready(period=2, failures=150),  # recovery after a crash may take minutes
        readiness_probe=ready(period=5, failures=2),
        liveness_probe=workload.tcp_probe(PORT, period=10, failures=6),
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=[*workload.volume_mounts(mounts), stateful.data_mount(DATA)],
    )


def pod(name: str, args: PostgresArgs, content: pulumi.Input[str]) -> core.v1.PodTemplateSpecArgs:
    """The server's pod."""
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_config_map("config", CONFIG, f"{name}-config"),
        workload.from_secret("admin", ADMIN_DIR, f"{name}-secrets", keys={"admin": "password"}),
        workload.scratch("sockets", SOCKETS, 1),
        workload.scratch("shm", SHM, args.resources.memory_mib // 4, in_memory=True),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount: the entry point writes here-documents
    ]
    return workload.pod(name, args.at, containers=[container(args, mounts)], uid=UID, gid=GID, mounts=mounts, content=content, grace_seconds=60)


def desired(args: PostgresArgs, passwords: Mapping[str, str]) -> Mapping[str, object]:
    """What roles and databases must exist."""
    return {
        "admin": ADMIN,
        "clients": accounts.entries(args.rotation, passwords, {client.name: {"database": client.database} for client in args.clients}),
    }


def spec(name: str, args: PostgresArgs) -> Spec:
    """What is particular to PostgreSQL."""
    return Spec(
        type="groundwork:data:Postgres",
        ports=PORTS,
        offered=PORTS,
        config={"postgresql.conf": server_config(args.resources.memory_mib, args.connections), "pg_hba.conf": HBA},
        own_secrets=("admin",),
        private=lambda _own: {},
        admin=lambda own: own["admin"],
        pod=lambda content: pod(name, args, content),
        clients=tuple(client.name for client in args.clients),
        credential=accounts.credential(args.rotation),
        desired=lambda _own, passwords: desired(args, passwords),
        minute=1,
    )


def describe(name: str, args: PostgresArgs) -> Description:
    """The server and the Jobs of its accounts."""
    return engine.describe(name, args, spec(name, args))


def use(args: PostgresArgs, client: PostgresClient, *, pool_size: int, required: bool) -> Use:
    """A service's use of its database, over at most `pool_size` connections from each pod."""
    return engine.use("postgres", args, client.name, PORT, required=required, database=client.database, pool_size=pool_size)


class Postgres(Engine):
    """A PostgreSQL server."""

    def __init__(self, name: str, args: PostgresArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, spec(name, args), provider=provider, opts=opts)
