"""What the runtime's benchmarks share: a Consul to ask, instances in it, and percentiles."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from groundwork.consul.client import ConsulClient
from groundwork.consul.txn import CheckSet, NodeSet, ServiceSet, TxnOperation
from groundwork.settings import ConsulSettings

START_SECONDS = 30.0
NODE = "bench-node"
PER_TXN = 60  # instances in one transaction of at most 128 operations


@dataclass(frozen=True)
class Subject:
    """A Consul and what it is: the results name it."""

    host: str
    port: int
    kind: str

    @property
    def settings(self) -> ConsulSettings:
        """How our client reaches it."""
        return ConsulSettings(address=f"http://{self.host}:{self.port}")


def free_ports(count: int) -> list[int]:
    """Ports that the OS says are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def consul_program() -> str | None:
    """A real Consul: CONSUL_BIN, PATH, or the sandbox's own build."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "groundwork"
    built = [str(path) for path in (cache / "bin" / "consul", *sorted(cache.glob("tools/*/consul"))) if os.access(path, os.X_OK)]
    return os.environ.get("CONSUL_BIN") or shutil.which("consul") or (built[0] if built else None)


@contextmanager
def consul() -> Generator[Subject]:
    """A Consul agent without access lists, in a process of its own; the simulator where there is none, which the results then say."""
    program = consul_program()
    http, server, serf, wan = free_ports(4)
    with tempfile.TemporaryDirectory() as folder:
        if program is None:
            command = [sys.executable, "-m", "groundwork.testing", "--port", str(http)]
        else:
            limits = Path(folder) / "limits.json"
            limits.write_text(json.dumps({"limits": {"http_max_conns_per_client": 8192}, "disable_update_check": True}))
            ports = ["-http-port", str(http), "-server-port", str(server), "-serf-lan-port", str(serf), "-serf-wan-port", str(wan)]
            off = ["-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1"]
            command = [program, "agent", "-dev", "-bind", "127.0.0.1", "-log-level", "error", "-config-file", str(limits), *ports, *off]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            subject = Subject("127.0.0.1", http, "real Consul agent" if program else "simulator")
            _wait(subject, process)
            yield subject
        finally:
            process.terminate()
            process.wait(30)


def _wait(subject: Subject, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{subject.settings.address}/v1/status/leader", timeout=1) as answer:
                if len(answer.read()) > 2:
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{subject.kind} did not start within {START_SECONDS} s")


def instance(service: str, number: int, *, port: int = 8000) -> list[TxnOperation]:
    """The operations that register instance `number` of a service."""
    name = f"{service}-{number:05}"
    meta = {"version": "2.4.1", "zone": f"z{number % 3}"}
    address = f"10.{1 + number // 62_500}.{number // 250 % 250}.{number % 250}"
    return [ServiceSet(NODE, name, service, address, port, ("v2", "http"), meta), CheckSet(NODE, f"lease:{name}", "lease", "passing", name)]


async def fill(client: ConsulClient, service: str, count: int) -> None:
    """Register `count` instances."""
    await client.txn([NodeSet(NODE, "127.0.0.1")])
    for start in range(0, count, PER_TXN):
        await client.txn([operation for number in range(start, min(start + PER_TXN, count)) for operation in instance(service, number)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
