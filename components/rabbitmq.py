"""RabbitMQ: queues between services, each client in a virtual host of its own.

One node from the official image: AMQP and the management API over TLS only, cluster traffic bound to loopback, a volume of its own.
https://www.rabbitmq.com/docs/configure, https://www.rabbitmq.com/docs/ssl, https://www.rabbitmq.com/docs/clustering#erlang-cookie
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import Provider, apps, core

from components import accounts, labels, stateful, workload
from components.contracts import Credentials, Edge, Endpoint, Placement, ServerTls, Workload
from components.workload import Demand, Resources

PORT = 5671
MANAGEMENT_PORT = 15671
UID = 999  # the image's `rabbitmq` user
GID = 999
ADMIN = "admin"
CONFIG = "/etc/groundwork"
ADMIN_DIR = "/etc/rabbitmq/conf.d"  # read after the main file; hides the image's own defaults
COOKIE_DIR = "/run/groundwork/cookie"
DATA = "/var/lib/rabbitmq"
LOGS = "/var/log/rabbitmq"
PLUGINS = "[rabbitmq_management].\n"
# The database is filed under the node's name. One that does not change with the pod's name or address finds its data again, and needs no DNS.
NODE = "rabbit@localhost"
PORTS = (stateful.Port("amqps", PORT), stateful.Port("management", MANAGEMENT_PORT, app_protocol="https"))


@dataclass(frozen=True)
class RabbitmqClient:
    """A user, and the virtual host in which it may do everything."""

    name: str
    vhost: str


@dataclass(frozen=True)
class RabbitmqArgs:
    """What a RabbitMQ needs to know.

    `storage_gib` is fixed once the volume exists; publishers are stopped when a tenth of it is left. `rotation` + 1 changes every client's
    password. With `retain_data` a destroy is refused, and volumes outlive the StatefulSet.
    """

    at: Placement
    image: str
    accounts_image: pulumi.Input[str]
    tls: ServerTls
    clients: tuple[RabbitmqClient, ...]
    resources: Resources = field(default_factory=lambda: Resources(cpu_m=100, memory_mib=512, cpu_limit_m=2000))
    storage_gib: int = 1
    rotation: int = 1
    retain_data: bool = False

    def __post_init__(self) -> None:
        accounts.check_clients("rabbitmq", [client.name for client in self.clients])
        accounts.check_rotation("rabbitmq", self.rotation)
        stateful.check_storage("rabbitmq", self.storage_gib)
        for vhost, count in Counter(client.vhost for client in self.clients).items():
            if vhost in {"", "/"}:
                raise ValueError(f"rabbitmq.clients: vhost {vhost!r} is the administrator's: give each client one of its own")
            if count > 1:
                raise ValueError(f"rabbitmq.clients: vhost {vhost} has {count} users: give each client a virtual host of its own")
        if self.resources.memory_mib < 256:
            raise ValueError(f"rabbitmq.resources.memory_mib is {self.resources.memory_mib}: RabbitMQ needs at least 256")


def edges(name: str, args: RabbitmqArgs) -> tuple[Edge, ...]:
    """The connections that the component itself makes: its accounts Job manages users, and logs in as each of them."""
    del args
    job, server = Workload(f"{name}-accounts"), Workload(name)
    return (Edge(job, server, MANAGEMENT_PORT, tls=True), Edge(job, server, PORT, tls=True))


def demand(args: RabbitmqArgs) -> Demand:
    """What it needs of the namespace at most: the server, its volume, and the Jobs of the accounts."""
    return Demand.of(args.resources, 1, claims=1, claim_gib=args.storage_gib) + accounts.demand()


def server_config(memory_mib: int, storage_gib: int) -> str:
    """rabbitmq.conf: TLS only, passwords only, alarms from the pod's own limits. Nothing secret."""
    files = {"cacertfile": f"{stateful.CA}/ca.crt", "certfile": f"{stateful.TLS}/tls.crt", "keyfile": f"{stateful.TLS}/tls.key"}
    lines = [
        "listeners.tcp = none",
        f"listeners.ssl.default = {PORT}",
        *(f"ssl_options.{key} = {path}" for key, path in files.items()),
        "ssl_options.versions.1 = tlsv1.3",
        "ssl_options.versions.2 = tlsv1.2",
        "ssl_options.verify = verify_none",  # clients prove themselves by password
        "ssl_options.fail_if_no_peer_cert = false",
        f"management.ssl.port = {MANAGEMENT_PORT}",
        *(f"management.ssl.{key} = {path}" for key, path in files.items()),
        "auth_mechanisms.1 = PLAIN",
        "auth_mechanisms.2 = AMQPLAIN",  # and so not ANONYMOUS
        f"total_memory_available_override_value = {memory_mib * 1024 * 1024}",  # else the node's memory may be taken for the pod's
        "vm_memory_high_watermark.relative = 0.6",
        f"disk_free_limit.absolute = {storage_gib * 1024 // 10}MB",
        "log.console = true",
        "log.console.level = info",
    ]
    return "\n".join(lines) + "\n"


def admin_config(password: str) -> str:
    """The file with the administrator's first password, which counts on an empty volume only."""
    return f"default_user = {ADMIN}\ndefault_pass = {password}\n"


def environment() -> dict[str, str]:
    """Everything that the images would otherwise decide for themselves."""
    return {
        "HOME": DATA,
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_CONFIG_FILE": f"{CONFIG}/rabbitmq.conf",
        "RABBITMQ_CONFIG_FILES": f"{ADMIN_DIR}/*.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{CONFIG}/enabled_plugins",
        "RABBITMQ_MNESIA_BASE": f"{DATA}/mnesia",
        "RABBITMQ_GENERATED_CONFIG_DIR": f"{DATA}/config",
        "RABBITMQ_LOG_BASE": LOGS,
        "RABBITMQ_LOGS": "-",
        # One node talks to its own command line tools only.
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }


def open_port(failures: int, period: int) -> core.v1.ProbeArgs:
    """RabbitMQ opens its listeners when everything else runs, and closes them first: an open port is a ready server.

    A probe by `rabbitmq-diagnostics` would start an Erlang machine of its own each time.
    """
    return workload.tcp_probe(PORT, period=period, failures=failures)


def cookie_container(args: RabbitmqArgs, mounts: list[workload.Mount]) -> core.v1.ContainerArgs:
    """Puts the cookie where Erlang looks for it, readable by its owner alone: a mounted Secret is readable by the group, and refused."""
    copy = f"umask 077 && cp {COOKIE_DIR}/cookie {DATA}/.erlang.cookie.new && mv -f {DATA}/.erlang.cookie.new {DATA}/.erlang.cookie"
    return core.v1.ContainerArgs(
        name="cookie",
        image=args.image,
        command=["sh", "-c", copy],
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=[*workload.volume_mounts(mounts), stateful.data_mount(DATA)],
    )


def container(args: RabbitmqArgs, mounts: list[workload.Mount]) -> core.v1.ContainerArgs:
    """The server."""
    return core.v1.ContainerArgs(
        name="rabbitmq",
        image=args.image,
        args=["rabbitmq-server"],
        env=[core.v1.EnvVarArgs(name=key, value=value) for key, value in environment().items()],
        ports=stateful.container_ports(PORTS),
        startup_probe=open_port(period=2, failures=150),
        readiness_probe=open_port(period=5, failures=2),
        liveness_probe=open_port(period=10, failures=6),
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=[*workload.volume_mounts(mounts), stateful.data_mount(DATA)],
    )


def stateful_set(
    name: str,
    args: RabbitmqArgs,
    *,
    config: pulumi.Input[str],
    admin: pulumi.Input[str],
    cookie: pulumi.Input[str],
    content: pulumi.Input[str],
) -> apps.v1.StatefulSetSpecArgs:
    """The one-node workload."""
    secret = workload.from_secret("cookie", COOKIE_DIR, cookie)
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_config_map("config", CONFIG, config),
        workload.from_secret("admin", ADMIN_DIR, admin, keys={"admin.conf": "50-admin.conf"}),
        workload.scratch("logs", LOGS, 16),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    pod = workload.pod(
        name,
        args.at,
        container=container(args, mounts),
        init_containers=[cookie_container(args, [secret])],
        uid=UID,
        gid=GID,
        mounts=[*mounts, secret],
        content=content,
        grace_seconds=60,
    )
    return stateful.stateful_set(name, args.at, template=pod, storage_gib=args.storage_gib, retain_data=args.retain_data)


def state(args: RabbitmqArgs, host: str, passwords: Mapping[str, str]) -> str:
    """accounts.json: what virtual hosts and users must exist. The schema is app/accounts/desired.py."""
    return json.dumps(
        {
            "host": host,
            "port": MANAGEMENT_PORT,
            "amqp_port": PORT,
            "admin": ADMIN,
            "clients": [
                {"name": client.name, "password": passwords[client.name], "vhost": client.vhost}
                for client in sorted(args.clients, key=lambda client: client.name)
            ],
        },
        sort_keys=True,
    )


class RabbitMQ(pulumi.ComponentResource):
    """A RabbitMQ node.

    Outputs: `endpoint`; `credentials`, each client's by name; `ready`, which clients must depend on: their accounts exist then.
    """

    endpoint: Endpoint
    credentials: dict[str, Credentials]
    ready: pulumi.Resource

    def __init__(self, name: str, args: RabbitmqArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:messaging:RabbitMQ", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        at = args.at

        # Not rotated with the clients: the Job needs it to rotate theirs, and the server reads it on an empty volume only.
        admin_password = accounts.secret_value(f"{name}-admin", parent=self)
        cookie_value = accounts.secret_value(f"{name}-cookie", parent=self)
        admin = core.v1.Secret(
            f"{name}-admin",
            metadata=labels.metadata(f"{name}-admin", name, at),
            string_data={"username": ADMIN, "password": admin_password, "admin.conf": admin_password.apply(admin_config)},
            opts=child,
        )
        cookie = core.v1.Secret(
            f"{name}-secrets", metadata=labels.metadata(f"{name}-secrets", name, at), string_data={"cookie": cookie_value}, opts=child
        )
        issued = accounts.passwords(name, [client.name for client in args.clients], at=at, rotation=args.rotation, parent=self, provider=provider)
        files = {"rabbitmq.conf": server_config(args.resources.memory_mib, args.storage_gib), "enabled_plugins": PLUGINS}
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
                config=config.metadata.name.apply(str),
                admin=admin.metadata.name.apply(str),
                cookie=cookie.metadata.name.apply(str),
                content=workload.digest(json.dumps(files, sort_keys=True), cookie_value, args.tls.digest),
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
                at=at, program="rabbitmq", image=args.accounts_image, ca=args.tls.ca, state=desired, admin=admin_password, minute=4
            ),
            parent=self,
            provider=provider,
            depends_on=[server],
        )
        self.endpoint = Endpoint(host=host, port=PORT, ca=args.tls.ca)
        self.credentials = issued.credentials
        self.register_outputs({"host": self.endpoint.host, "port": PORT})
