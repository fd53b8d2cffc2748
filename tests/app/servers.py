"""PostgreSQL, Redis, RabbitMQ and Consul for tests: real servers on loopback, with TLS, and with faults on demand.

    with servers.postgres() as server:
        connect(server.host, server.port, server.ca, server.username, server.password)
        server.kill(); server.start()

Each can be stopped, killed, paused, resumed, restarted and wiped (see `processes.Server`). Where a program is not installed,
the context manager skips the test and says which one is missing. The files of a server can be replaced by ones that a component
rendered; `{placeholders}` in the default ones are the same paths that a pod would mount.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

import pytest

from sandbox.paths import locate
from tests.app.pki import Authority
from tests.app.processes import Server, free_port, listening

CONSUL_DATACENTER = "dc1"
CONSUL_NAMES = ("localhost", f"server.{CONSUL_DATACENTER}.consul")
CONSUL_IPS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")


def find(program: str, *folders: str) -> Path:
    """The program, or a skipped test that says what is missing."""
    found = shutil.which(program, path=os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{program} is not installed: this test needs the real server")
    return Path(found)


def postgres_program(program: str) -> Path:
    """A program of Debian's PostgreSQL, newest version first, which lies outside of PATH."""
    root = Path("/usr/lib/postgresql")
    versions = sorted(root.iterdir(), key=lambda p: int(p.name), reverse=True) if root.is_dir() else []
    return find(program, *(str(version / "bin") for version in versions))


def consul_program() -> Path:
    """Consul: the one that CONSUL_BIN names, on PATH, or built by the sandbox."""
    named = os.environ.get("CONSUL_BIN")
    if named is not None:
        if not Path(named).is_file():
            pytest.fail(f"CONSUL_BIN is {named}, which is no file")
        return Path(named)
    return find("consul", str(locate().bin))


class Postgres(Server):
    """PostgreSQL with an administrator `postgres`; passwords over TLS only. `config` and `hba` replace the two files."""

    name = "postgres"
    user = "postgres"
    graceful = SIGINT  # the fast shutdown, as in the official image
    username = "postgres"

    CONFIG = """
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{folder}/socket'
ssl = on
ssl_cert_file = '{folder}/tls/tls.crt'
ssl_key_file = '{folder}/tls/tls.key'
password_encryption = scram-sha-256
shared_buffers = 16MB
"""
    HBA = "hostssl all all all scram-sha-256\n"

    def __init__(self, authority: Authority, *, config: str | None = None, hba: str | None = None, version_bin: Path | None = None) -> None:
        self.bin = version_bin or postgres_program("initdb").parent
        super().__init__()
        self.password = secrets.token_urlsafe(24)
        authority.write(self.ca.parent)
        authority.issue("postgres").write(self.folder / "tls")
        self.owned(self.folder / "tls")
        self.owned(self.folder / "socket")
        (self.folder / "postgresql.conf").write_text(config or self.CONFIG.format(host=self.host, port=self.port, folder=self.folder))
        (self.folder / "pg_hba.conf").write_text(hba or self.HBA)

    def prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        self.run([str(self.bin / "initdb"), "-D", str(self.data), "-U", self.username, "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"])

    def command(self) -> Sequence[str]:
        config, hba = self.folder / "postgresql.conf", self.folder / "pg_hba.conf"
        return [str(self.bin / "postgres"), "-D", str(self.data), "-c", f"config_file={config}", "-c", f"hba_file={hba}"]

    def ready(self) -> bool:
        command = [str(self.bin / "pg_isready"), "-q", "-h", str(self.folder / "socket"), "-p", str(self.port), "-t", "2"]
        return subprocess.run(command, check=False, timeout=10).returncode == 0


class Redis(Server):
    """Redis over TLS with an administrator `admin`. `config` and `acl` replace the two files.

    With `managed`, the access list lies on the volume, as the pod's init container makes it there: the administrator and the probe.
    """

    name = "redis"
    user = "redis"
    username = "admin"

    CONFIG = """
bind {host}
port 0
tls-port {port}
tls-cert-file {folder}/tls/tls.crt
tls-key-file {folder}/tls/tls.key
tls-ca-cert-file {folder}/ca/ca.crt
tls-auth-clients no
aclfile {acl}
dir {folder}/data
appendonly yes
save ""
"""

    def __init__(self, authority: Authority, *, config: str | None = None, acl: str | None = None, managed: bool = False) -> None:
        self.program = find("redis-server")
        super().__init__()
        self.password = secrets.token_urlsafe(24)
        authority.write(self.ca.parent)
        authority.issue("redis").write(self.folder / "tls")
        self.owned(self.folder / "tls")
        self.managed = managed
        self.acl = (self.data if managed else self.folder) / "users.acl"
        places = {"host": self.host, "port": self.port, "folder": self.folder, "acl": self.acl}
        (self.folder / "redis.conf").write_text(config or self.CONFIG.format(**places))
        if not managed:
            self.write_acl(acl or "user default off")

    def prepare(self) -> None:
        if self.managed:
            self.write_acl("user default off\nuser probe on nopass +ping")
            self.owned(self.data)

    def write_acl(self, acl: str) -> None:
        """Replaces the access list, to which the tests' administrator is added. It counts from the next start."""
        self.acl.write_text(f"{acl}\nuser {self.username} on >{self.password} ~* &* +@all\n")

    def command(self) -> Sequence[str]:
        return [str(self.program), str(self.folder / "redis.conf")]

    def ready(self) -> bool:
        return listening(self.host, self.port) and "Ready to accept connections" in self.log_text().rpartition("Redis is starting")[2]


class RabbitMq(Server):
    """RabbitMQ: AMQP over TLS on `port`, the management API over TLS on `management_port`, administrator `admin`."""

    name = "rabbitmq"
    user = "rabbitmq"
    username = "admin"

    CONFIG = """
listeners.tcp = none
listeners.ssl.1 = {host}:{port}
ssl_options.cacertfile = {folder}/ca/ca.crt
ssl_options.certfile = {folder}/tls/tls.crt
ssl_options.keyfile = {folder}/tls/tls.key
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
management.ssl.ip = {host}
management.ssl.port = {management_port}
management.ssl.cacertfile = {folder}/ca/ca.crt
management.ssl.certfile = {folder}/tls/tls.crt
management.ssl.keyfile = {folder}/tls/tls.key
default_user = admin
default_pass = {password}
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = info
"""

    def __init__(self, authority: Authority, *, config: str | None = None, plugins: str = "[rabbitmq_management].\n") -> None:
        self.program = find("rabbitmq-server", "/usr/lib/rabbitmq/bin")
        super().__init__()
        self.management_port = free_port()
        self.password = secrets.token_urlsafe(24)
        self._epmd_port, self._dist_port = free_port(), free_port()
        authority.write(self.ca.parent)
        authority.issue("rabbitmq").write(self.folder / "tls")
        self.owned(self.folder / "tls")
        text = config or self.CONFIG.format(
            host=self.host, port=self.port, management_port=self.management_port, folder=self.folder, password=self.password
        )
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "enabled_plugins").write_text(plugins)
        self._epmd: subprocess.Popen[bytes] | None = None

    def environment(self) -> Mapping[str, str]:
        return {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none.sh"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.data / "mnesia"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.data / "config"),
            "RABBITMQ_LOG_BASE": str(self.data / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.data / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -ssl bypass_pem_cache true",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server instead of waiting beside it
        }

    def spawn(self) -> None:
        if self._epmd is None:  # a port mapper of our own: the one that Erlang starts would outlive the test
            command = [str(find("epmd")), "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        super().spawn()

    def close(self) -> None:
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    def command(self) -> Sequence[str]:
        # Debian's wrapper in /usr/sbin changes users by itself: go past it where it exists.
        inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        return [str(inner if inner.exists() else self.program)]

    def ready(self) -> bool:
        return "Server startup complete" in self.log_text().rpartition("Starting RabbitMQ")[2] and listening(self.host, self.management_port)


class Consul(Server):
    """A Consul server: HTTPS on `port`, access lists that deny by default, management token `password` (also `token`).

    `config` replaces the whole configuration. The server keeps its data when `host` is changed between two starts.
    """

    name = "consul"
    user = None  # it does not refuse root, and its program may lie in a folder that is closed to others

    def __init__(self, authority: Authority, *, config: str | None = None, host: str = "127.0.0.1") -> None:
        self.program = consul_program()
        super().__init__(host)
        self.password = str(uuid.uuid4())
        self.gossip_key = b64encode(secrets.token_bytes(32)).decode()
        self.serf_port, self.rpc_port = free_port(host), free_port(host)
        authority.write(self.ca.parent)
        authority.issue("consul", CONSUL_NAMES, CONSUL_IPS).write(self.folder / "tls")
        self.owned(self.folder / "tls")
        self._config = config

    @property
    def token(self) -> str:
        """The management token."""
        return self.password

    @property
    def address(self) -> str:
        """The API as a URL."""
        return f"https://{self.host}:{self.port}"

    def config(self) -> str:
        """The configuration as JSON, at the server's present address."""
        if self._config is not None:
            return self._config
        tls = {"ca_file": str(self.ca), "cert_file": str(self.folder / "tls/tls.crt"), "key_file": str(self.folder / "tls/tls.key")}
        return json.dumps(
            {
                "server": True,
                "bootstrap_expect": 1,
                "datacenter": CONSUL_DATACENTER,
                "data_dir": str(self.data),
                "bind_addr": self.host,
                "client_addr": self.host,
                "ports": {
                    "http": -1,
                    "https": self.port,
                    "dns": -1,
                    "grpc": -1,
                    "grpc_tls": -1,
                    "serf_wan": -1,
                    "serf_lan": self.serf_port,
                    "server": self.rpc_port,
                },
                "encrypt": self.gossip_key,
                "tls": {"defaults": tls, "internal_rpc": {"verify_incoming": True, "verify_outgoing": True, "verify_server_hostname": True}},
                "acl": {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": self.password, "agent": self.password}},
                "performance": {"raft_multiplier": 1},
                "disable_update_check": True,
            }
        )

    def command(self) -> Sequence[str]:
        (self.folder / "consul.json").write_text(self.config())
        return [str(self.program), "agent", f"-config-file={self.folder / 'consul.json'}"]

    def ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(f"{self.address}/v1/status/leader", timeout=2, context=context) as answer:
                if len(answer.read()) <= 2:
                    return False
            # A leader is not enough: the management token exists a moment later.
            whoami = urllib.request.Request(f"{self.address}/v1/acl/token/self", headers={"X-Consul-Token": self.password})
            with urllib.request.urlopen(whoami, timeout=2, context=context) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def _running(server: Server) -> Generator[None]:
    try:
        server.start()
        yield
    finally:
        server.close()


@contextmanager
def postgres(authority: Authority | None = None, *, config: str | None = None, hba: str | None = None) -> Generator[Postgres]:
    """A running PostgreSQL."""
    server = Postgres(authority or Authority(), config=config, hba=hba)
    with _running(server):
        yield server


@contextmanager
def redis(authority: Authority | None = None, *, config: str | None = None, acl: str | None = None, managed: bool = False) -> Generator[Redis]:
    """A running Redis. `acl` is an access list to which the administrator of the tests is added; `managed`: see `Redis`."""
    server = Redis(authority or Authority(), config=config, acl=acl, managed=managed)
    with _running(server):
        yield server


@contextmanager
def rabbitmq(authority: Authority | None = None, *, config: str | None = None) -> Generator[RabbitMq]:
    """A running RabbitMQ with its management API."""
    server = RabbitMq(authority or Authority(), config=config)
    with _running(server):
        yield server


@contextmanager
def consul(authority: Authority | None = None, *, config: str | None = None, host: str = "127.0.0.1") -> Generator[Consul]:
    """A running Consul server with a leader."""
    server = Consul(authority or Authority(), config=config, host=host)
    with _running(server):
        yield server
