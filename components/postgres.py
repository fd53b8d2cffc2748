"""PostgreSQL: each client's own database, of which it is the owner and nobody else may connect to.

One server from the official image: TLS only, passwords as SCRAM-SHA-256, data checksums, a volume of its own.
https://www.postgresql.org/docs/17/auth-pg-hba-conf.html, https://hub.docker.com/_/postgres
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import Provider, apps, core

from components import accounts, labels, stateful, workload
from components.contracts import Credentials, Edge, Endpoint, Placement, ServerTls, Workload
from components.workload import Demand, Resources

PORT = 5432
UID = 999  # the image's `postgres` user
GID = 999
ADMIN = "postgres"
CONFIG = "/etc/groundwork"
ADMIN_DIR = "/run/groundwork/admin"
DATA = "/var/lib/postgresql/data"
SOCKETS = "/var/run/postgresql"
PORTS = (stateful.Port("postgres", PORT, app_protocol="tcp"),)  # TLS begins inside of PostgreSQL's own protocol
SYSTEM_DATABASES = frozenset({"postgres", "template0", "template1"})

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
    """A role that may log in, and the database that it owns."""

    name: str
    database: str


@dataclass(frozen=True)
class PostgresArgs:
    """What a PostgreSQL needs to know.

    A quarter of `resources.memory_mib` is shared buffers. `storage_gib` is fixed once the volume exists. `rotation` + 1 changes every
    client's password. With `retain_data` a destroy is refused, and volumes outlive the StatefulSet.
    """

    at: Placement
    image: str
    accounts_image: pulumi.Input[str]
    tls: ServerTls
    clients: tuple[PostgresClient, ...]
    resources: Resources = field(default_factory=lambda: Resources(cpu_m=100, memory_mib=256))
    storage_gib: int = 1
    rotation: int = 1
    retain_data: bool = False

    def __post_init__(self) -> None:
        accounts.check_clients("postgres", [client.name for client in self.clients])
        accounts.check_rotation("postgres", self.rotation)
        stateful.check_storage("postgres", self.storage_gib)
        for database, count in Counter(client.database for client in self.clients).items():
            if not _DATABASE.fullmatch(database):
                raise ValueError(f"postgres.clients: {database!r} cannot be a database: use at most 63 of a-z, 0-9 and _, a letter first")
            if database in SYSTEM_DATABASES:
                raise ValueError(f"postgres.clients: database {database} belongs to PostgreSQL itself: choose another name")
            if count > 1:
                raise ValueError(f"postgres.clients: database {database} has {count} owners: give each client a database of its own")
        if self.resources.memory_mib < 128:
            raise ValueError(f"postgres.resources.memory_mib is {self.resources.memory_mib}: PostgreSQL needs at least 128")


def edges(name: str, args: PostgresArgs) -> tuple[Edge, ...]:
    """The connections that the component itself makes: its accounts Job logs in."""
    del args
    return (Edge(Workload(f"{name}-accounts"), Workload(name), PORT, tls=True),)


def demand(args: PostgresArgs) -> Demand:
    """What it needs of the namespace at most: the server, its volume, and the Jobs of the accounts."""
    return Demand.of(args.resources, 1, claims=1, claim_gib=args.storage_gib) + accounts.demand()


def server_config(memory_mib: int) -> str:
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
max_connections = 100
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


def stateful_set(
    name: str, args: PostgresArgs, config: pulumi.Input[str], admin: pulumi.Input[str], content: pulumi.Input[str]
) -> apps.v1.StatefulSetSpecArgs:
    """The one-replica workload."""
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_config_map("config", CONFIG, config),
        workload.from_secret("admin", ADMIN_DIR, admin, keys={"password": "password"}),
        workload.scratch("sockets", SOCKETS, 1),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount: the entry point writes here-documents
    ]
    pod = workload.pod(name, args.at, container=container(args, mounts), uid=UID, gid=GID, mounts=mounts, content=content, grace_seconds=60)
    return stateful.stateful_set(name, args.at, template=pod, storage_gib=args.storage_gib, retain_data=args.retain_data)


def state(args: PostgresArgs, host: str, passwords: Mapping[str, str]) -> str:
    """accounts.json: what roles and databases must exist. The schema is app/accounts/desired.py."""
    return json.dumps(
        {
            "host": host,
            "port": PORT,
            "admin": ADMIN,
            "clients": [
                {"name": client.name, "password": passwords[client.name], "database": client.database}
                for client in sorted(args.clients, key=lambda client: client.name)
            ],
        },
        sort_keys=True,
    )


class Postgres(pulumi.ComponentResource):
    """A PostgreSQL server.

    Outputs: `endpoint`; `credentials`, each client's by name; `ready`, which clients must depend on: their accounts exist then.
    """

    endpoint: Endpoint
    credentials: dict[str, Credentials]
    ready: pulumi.Resource

    def __init__(self, name: str, args: PostgresArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:data:Postgres", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        at = args.at

        # Not rotated with the clients: the Job needs it to rotate theirs, and the server reads it on an empty volume only.
        admin_password = accounts.secret_value(f"{name}-admin", parent=self)
        admin = core.v1.Secret(
            f"{name}-admin",
            metadata=labels.metadata(f"{name}-admin", name, at),
            string_data={"username": ADMIN, "password": admin_password},
            opts=child,
        )
        issued = accounts.passwords(name, [client.name for client in args.clients], at=at, rotation=args.rotation, parent=self, provider=provider)
        files = {"postgresql.conf": server_config(args.resources.memory_mib), "pg_hba.conf": HBA}
        config = core.v1.ConfigMap(f"{name}-config", metadata=labels.metadata(f"{name}-config", name, at), data=files, opts=child)
        service = core.v1.Service(name, metadata=labels.metadata(name, name, at), spec=stateful.service(name, at, PORTS), opts=child)
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
                admin.metadata.name.apply(str),
                workload.digest(json.dumps(files, sort_keys=True), args.tls.digest),
            ),
            opts=pulumi.ResourceOptions(parent=self, provider=provider, protect=args.retain_data or None, depends_on=[headless]),
        )

        host = stateful.host(service.metadata.name.apply(str), at)
        desired = pulumi.Output.all(host=host, passwords=pulumi.Output.all(**issued.secrets)).apply(
            lambda known: state(args, known["host"], known["passwords"])
        )
        self.ready = accounts.apply(
            name,
            accounts.AccountsArgs(
                at=at, program="postgres", image=args.accounts_image, ca=args.tls.ca, state=desired, admin=admin_password, minute=1
            ),
            parent=self,
            provider=provider,
            depends_on=[server],
        )
        self.endpoint = Endpoint(host=host, port=PORT, ca=args.tls.ca)
        self.credentials = issued.credentials
        self.register_outputs({"host": self.endpoint.host, "port": PORT})
