"""Discovery over HTTP: the registry's answer against a bare ASGI program's with the same bytes, each with a token that it knows already.

What counts is the processor time of the server, so that neither the load nor the machine's other work is in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey
from prometheus_client import CollectorRegistry

from bench.result import Result
from bench.runtime_support import START_SECONDS, Subject, fill, free_ports
from bench.runtime_support import consul as a_consul
from groundwork.consul.client import ConsulClient

SERVICE = "bench-rest"
INSTANCES = 20
PATH = f"/api/v1/services/discover/{SERVICE}"
CONNECTIONS = 16
REQUESTS = 4_000  # a round, over all connections
ROUNDS = 11
TARGET = 0.65
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def issuer() -> Generator[tuple[str, str]]:
    """The address of an issuer's key set, and a token of its."""
    key = ECKey.generate_key("P-256")
    keys = json.dumps({"keys": [key.as_dict(private=False) | {"kid": "bench", "use": "sig"}]}).encode()

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(keys)))
            self.end_headers()
            self.wfile.write(keys)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    claims = {"iss": address, "aud": "groundwork", "sub": "bench", "exp": int(time.time()) + 3600, "scope": "registry:read"}
    try:
        yield address, jwt.encode({"alg": "ES256", "kid": "bench"}, claims, key, algorithms=["ES256"])
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def server(side: str, folder: Path, port: int) -> Generator[int]:
    """One side, once it answers. Yields its process id."""
    process = subprocess.Popen([sys.executable, "-m", "bench.rest_server", side, str(folder), str(port)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                httpx2.get(f"http://127.0.0.1:{port}/health/live", timeout=1)
                break
            except httpx2.HTTPError:
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def ask(port: int, request: bytes, size: int, count: int) -> None:
    """`count` requests, one after another, on one connection. Raises where an answer is not a whole 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(count):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"port {port} answered {head.splitlines()[0]!r}")
            await reader.readexactly(size)
    finally:
        writer.close()


async def load(port: int, request: bytes, size: int) -> None:
    """One round."""
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(ask(port, request, size, REQUESTS // CONNECTIONS))


def microseconds(pid: int, port: int, request: bytes, size: int) -> float:
    """Processor time of one answer."""
    before = cpu_seconds(pid)
    asyncio.run(load(port, request, size))
    return (cpu_seconds(pid) - before) / REQUESTS * 1e6


async def register(subject: Subject) -> None:
    """The instances to be found."""
    async with ConsulClient(subject.settings, registry=CollectorRegistry()) as client:
        await fill(client, SERVICE, INSTANCES)


def measure(subject: Subject) -> list[tuple[float, float]]:
    """Microseconds of an answer of ours and of the peer's, rounds in turn."""
    with issuer() as (address, token), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        own_port, peer_port, metrics_port = free_ports(3)
        auth = {"issuers": [{"issuer": address, "jwks_url": f"{address}/keys", "audience": "groundwork", "token_scopes": ["registry:read"]}]}
        settings = {
            "service": "registry",
            "http_port": own_port,
            "metrics_port": metrics_port,
            "consul": {"address": subject.settings.address},
            "auth": auth,
            "rate_limit_per_second": 1e6,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "token").write_text(token)
        request = f"GET {PATH} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        with server("ours", folder, own_port) as own:
            answer = httpx2.get(f"http://127.0.0.1:{own_port}{PATH}", headers={"Authorization": f"Bearer {token}"}, timeout=10)
            answer.raise_for_status()
            headers = [(name, value) for name, value in answer.headers.items() if name != "date"]
            (folder / "headers").write_text("\n".join(f"{name}: {value}" for name, value in headers))
            (folder / "body").write_bytes(answer.content)
            with server("peer", folder, peer_port) as peer:
                sides = [(own, own_port), (peer, peer_port)]
                rounds = [[microseconds(pid, port, request, len(answer.content)) for pid, port in sides] for _ in range(ROUNDS + 1)]
    return [(ours, theirs) for ours, theirs in rounds[1:]]  # the first round warms both up


def run() -> list[Result]:
    """Measures everything once."""
    with a_consul() as subject:
        asyncio.run(register(subject))
        rounds = measure(subject)
    ours, peer = median(own for own, _ in rounds), median(theirs for _, theirs in rounds)
    ratio = median(theirs / own for own, theirs in rounds)  # of each round: both sides had the machine in the same mood
    name = f"REST discover, {INSTANCES} instances, server's CPU"
    who = f"a bare ASGI answer with the same bytes, {subject.kind} behind ours"
    return [Result(name, ours, peer, who, "us", ratio, f">= {TARGET}x", ratio >= TARGET)]
