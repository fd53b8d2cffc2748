"""Lets this process use the names of the cluster's Services, so that certificates are verified as they are in a pod.

On the sandbox a name leads to its ClusterIP. Of another cluster only the API server is reached: there it leads to a port of
this machine, which `kubectl port-forward` joins to a ready pod behind the Service, until that pod is ready no more.
"""

# pyright: basic, reportOptionalMemberAccess=false, reportOptionalIterable=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kubernetes import client

Address = tuple[str, int]
START_SECONDS = 30


@contextmanager
def resolved(where: Callable[[str, int], Address | None]) -> Generator[None]:
    """Inside, `where` says for a name and a port what to connect to; None leaves it to the machine."""
    original = socket.getaddrinfo

    def resolve(host: object, port: object, *rest: object, **named: object) -> object:
        found = where(host, port) if isinstance(host, str) and isinstance(port, int) else None
        return original(*(found or (host, port)), *rest, **named)  # type: ignore[arg-type]

    socket.getaddrinfo = resolve  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.getaddrinfo = original


def cluster_ips(core: client.CoreV1Api, namespace: str) -> Callable[[str, int], Address | None]:
    """Where the Services of `namespace` are, for a machine with a route to them."""
    known = {f"{s.metadata.name}.{namespace}.svc": str(s.spec.cluster_ip) for s in core.list_namespaced_service(namespace).items}
    return lambda host, port: (known[host], port) if host in known else None


@dataclass(frozen=True)
class _Forward:
    """A port of this machine that leads to one of a pod, as long as `process` runs."""

    pod: str
    port: int
    process: subprocess.Popen[bytes]


@dataclass
class Forwards:
    """The forwarded ports of one namespace, made when they are first asked for. `kubectl` are the words that name the cluster."""

    core: client.CoreV1Api
    discovery: client.DiscoveryV1Api
    namespace: str
    kubectl: Sequence[str]
    _made: dict[tuple[str, int], _Forward] = field(default_factory=dict[tuple[str, int], _Forward])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, host: str, port: int) -> Address | None:
        """The port of this machine that leads to the Service `host`. Raises OSError where no pod is ready behind it."""
        service, _, rest = host.partition(".")
        if rest != f"{self.namespace}.svc":
            return None
        with self._lock:
            ready = self._ready(service, port)
            known = self._made.get((service, port))
            if known is None or known.process.poll() is not None or known.pod not in ready:
                self._end(known)
                pod, target = next(iter(ready.items()))
                known = self._made[service, port] = self._start(pod, target)
            return "127.0.0.1", known.port

    def close(self) -> None:
        """Ends all of them."""
        for forward in self._made.values():
            self._end(forward)
        self._made.clear()

    def _ready(self, service: str, port: int) -> dict[str, int]:
        """The ready pods behind a Service's port, and the port that each of them listens on."""
        spec = self.core.read_namespaced_service(service, self.namespace).spec
        name = next((p.name or "" for p in spec.ports if p.port == port), None)
        if name is None:
            raise ConnectionRefusedError(f"connection refused: the Service {service} has no port {port}")
        found: dict[str, int] = {}
        for piece in self.discovery.list_namespaced_endpoint_slice(self.namespace, label_selector=f"kubernetes.io/service-name={service}").items:
            target = next((p.port for p in piece.ports or [] if (p.name or "") == name), None)
            found |= {str(e.target_ref.name): target for e in piece.endpoints or [] if target and e.conditions.ready and e.target_ref}
        if not found:
            raise OSError(f"no pod is ready behind port {port} of {service}")
        return found

    def _start(self, pod: str, target: int) -> _Forward:
        with tempfile.NamedTemporaryFile() as said:  # a file: nobody reads what kubectl says of each connection
            argv = [*self.kubectl, "--namespace", self.namespace, "port-forward", f"pod/{pod}", f":{target}"]
            process = subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT)
            end = time.monotonic() + START_SECONDS
            while time.monotonic() < end and process.poll() is None:
                with suppress(IndexError, ValueError):
                    return _Forward(pod, int(Path(said.name).read_text().split("Forwarding from 127.0.0.1:")[1].split()[0]), process)
                time.sleep(0.05)
            process.kill()
            process.wait()
            raise OSError(f"port {target} of {pod} cannot be forwarded: {Path(said.name).read_text().strip()}")

    def _end(self, forward: _Forward | None) -> None:
        if forward is not None:
            forward.process.terminate()
            forward.process.wait()
