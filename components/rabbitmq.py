"""RabbitMQ: queues between services, each client in a virtual host of its own.

One node from the official image: AMQP and the management API over TLS only, a volume of its own.
https://www.rabbitmq.com/docs/configure, https://www.rabbitmq.com/docs/ssl, https://www.rabbitmq.com/docs/clustering#erlang-cookie
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, core

from components.lib import accounts, engine, stateful, workload
from components.lib.contracts import Placement, Use
from components.lib.description import Description
from components.lib.engine import Engine, EngineArgs, Spec
from components.lib.problems import Problem, refuse

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
NODE_FILE = f"{DATA}/node.env"  # the database is filed under the node's name: another name would begin with an empty one
PORTS = (stateful.Port("amqps", PORT), stateful.Port("management", MANAGEMENT_PORT, app_protocol="https"))


@dataclass(frozen=True)
class RabbitmqClient:
    """A user, and the virtual host in which it may do everything."""

    name: str
    vhost: str


@dataclass(frozen=True, kw_only=True)
class RabbitmqArgs(EngineArgs):
    """What a RabbitMQ needs to know besides. Publishers are stopped when a tenth of `storage_gib` is left."""

    clients: tuple[RabbitmqClient, ...]

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from self.bad("rabbitmq", [client.name for client in self.clients], memory_mib=256)
        for vhost, count in Counter(client.vhost for client in self.clients).items():
            if vhost in {"", "/"}:
                yield Problem("rabbitmq.clients", f"vhost {vhost!r} is the administrator's: give each client one of its own")
            if count > 1:
                yield Problem("rabbitmq.clients", f"vhost {vhost} has {count} users: give each client a virtual host of its own")


def node(name: str, at: Placement) -> str:
    """The node's name: the pod's own in DNS, which stays the same for every pod on this volume, and by which other nodes could find it."""
    return f"rabbit@$HOSTNAME.{name}-headless.{at.namespace}.svc.{at.cluster_domain}"


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
        "RABBITMQ_CONF_ENV_FILE": NODE_FILE,
        "RABBITMQ_CONFIG_FILE": f"{CONFIG}/rabbitmq.conf",
        "RABBITMQ_CONFIG_FILES": f"{ADMIN_DIR}/*.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{CONFIG}/enabled_plugins",
        "RABBITMQ_MNESIA_BASE": f"{DATA}/mnesia",
        "RABBITMQ_GENERATED_CONFIG_DIR": f"{DATA}/config",
        "RABBITMQ_LOG_BASE": LOGS,
        "RABBITMQ_LOGS": "-",
        # Erlang keeps certificate files for two minutes; a renewed one is to be shown at the next connection.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-ssl bypass_pem_cache true",
    }


def open_port(failures: int, period: int) -> core.v1.ProbeArgs:
    """RabbitMQ opens its listeners when everything else runs, and closes them first: an open port is a ready server.

    A probe by `rabbitmq-diagnostics` would start an Erlang machine of its own each time.
    """
    return workload.tcp_probe(PORT, period=period, failures=failures)


def prepare_node(name: str, at: Placement) -> str:
    """Puts the cookie where Erlang looks for it, readable by its owner alone (a mounted Secret is readable by the group, and refused), and
    the node's name where the server reads it: the one that the volume knows, or the new volume's own.
    """
    cookie = f"{DATA}/.erlang.cookie"
    return "\n".join(
        (
            "set -e; umask 077",
            f"cp {COOKIE_DIR}/cookie {cookie}.new && mv -f {cookie}.new {cookie}",
            f'name="{node(name, at)}"',
            f"for found in {DATA}/mnesia/rabbit@*; do",
            '  case "$found" in *-plugins-expand) continue ;; esac',
            '  if [ -d "$found" ]; then name="${found##*/}"; fi',
            "done",
            'case "$name" in *.*) long=true ;; *) long=false ;; esac',
            f'printf "NODENAME=%s\\nUSE_LONGNAME=%s\\n" "$name" "$long" > {NODE_FILE}',
        )
    )


def prepare(name: str, args: RabbitmqArgs, mounts: list[workload.Mount]) -> core.v1.ContainerArgs:
    """Runs before the server does."""
    return core.v1.ContainerArgs(
        name="node",
        image=args.image,
        command=["sh", "-c", prepare_node(name, args.at)],
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


def pod(name: str, args: RabbitmqArgs, content: pulumi.Input[str]) -> core.v1.PodTemplateSpecArgs:
    """The node's pod."""
    cookie = workload.from_secret("cookie", COOKIE_DIR, f"{name}-secrets", keys={"cookie": "cookie"})
    mounts = [
        *stateful.tls_mounts(args.tls),
        workload.from_config_map("config", CONFIG, f"{name}-config"),
        workload.from_secret("admin", ADMIN_DIR, f"{name}-secrets", keys={"admin.conf": "50-admin.conf"}),
        workload.scratch("logs", LOGS, 16),
        workload.scratch("tmp", "/tmp", args.resources.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    return workload.pod(
        name,
        args.at,
        containers=[container(args, mounts)],
        init_containers=[prepare(name, args, [cookie])],
        uid=UID,
        gid=GID,
        mounts=[*mounts, cookie],
        content=content,
        grace_seconds=60,
    )


def desired(args: RabbitmqArgs, passwords: Mapping[str, str]) -> Mapping[str, object]:
    """What virtual hosts and users must exist. They are made over the management API."""
    return {
        "port": MANAGEMENT_PORT,
        "amqp_port": PORT,
        "admin": ADMIN,
        "clients": accounts.entries(args.rotation, passwords, {client.name: {"vhost": client.vhost} for client in args.clients}),
    }


def spec(name: str, args: RabbitmqArgs) -> Spec:
    """What is particular to RabbitMQ."""
    return Spec(
        type="groundwork:messaging:RabbitMQ",
        ports=PORTS,
        offered=PORTS,
        config={"rabbitmq.conf": server_config(args.resources.memory_mib, args.storage_gib), "enabled_plugins": PLUGINS},
        own_secrets=("admin", "cookie"),
        private=lambda own: {"admin.conf": admin_config(own["admin"])},
        admin=lambda own: own["admin"],
        pod=lambda content: pod(name, args, content),
        clients=tuple(client.name for client in args.clients),
        credential=accounts.credential(args.rotation),
        desired=lambda _own, passwords: desired(args, passwords),
        minute=4,
    )


def describe(name: str, args: RabbitmqArgs) -> Description:
    """The node and the Jobs of its accounts."""
    return engine.describe(name, args, spec(name, args), init_containers=1)


def use(args: RabbitmqArgs, client: RabbitmqClient, *, required: bool) -> Use:
    """A service's use of its virtual host."""
    return engine.use("rabbitmq", args, client.name, PORT, required=required, vhost=client.vhost)


class RabbitMQ(Engine):
    """A RabbitMQ node."""

    def __init__(self, name: str, args: RabbitmqArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, spec(name, args), provider=provider, opts=opts)
