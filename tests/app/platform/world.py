"""The platform's services as processes on this machine, with the settings files that a pod would mount."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.app.processes import free_port

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        return json.loads(self.body)


def call(method: str, url: str, body: object = None, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0) -> Answer:
    """One HTTP request on a connection of its own; a status is an answer, never an exception."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


@dataclass
class Service:
    """A running service: its process, its base URL, its log."""

    name: str
    command: Sequence[str]
    settings: dict[str, object]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    python_path: Path | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / f"{self.name}-{self.settings['instance_id']}.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['http_port']}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.settings['metrics_port']}/metrics"

    def start(self) -> None:
        file = self.folder / f"{self.settings['instance_id']}.json"
        file.write_text(json.dumps(self.settings))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PLATFORM_")} | {"PLATFORM_SETTINGS_FILE": str(file)}
        if self.python_path is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(self.python_path)])
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", *self.command], cwd=ROOT, env=environment, stdout=log, stderr=log)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Until /health/ready answers 200."""
        eventually(self.is_ready, timeout, f"{self.name} is not ready: {self.tail()}")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended: {self.tail()}"
        try:
            return call("GET", f"{self.url}/health/ready", timeout=2).status == 200
        except OSError:
            return False

    def tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.process.wait(timeout=45)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def eventually(condition: Callable[[], bool], timeout: float, message: str) -> None:
    """Wait until `condition()` holds; the deadline is generous and only ends what would never end."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


def make(name: str, command: Sequence[str], folder: Path, settings: Mapping[str, object], *, instance: str = "") -> Service:
    """A service that is not started yet, on free ports."""
    base: dict[str, object] = {
        "service": name,
        "instance_id": instance or f"{name}-1",
        "address": "127.0.0.1",
        "http_port": free_port(),
        "metrics_port": free_port(),
        "drain_seconds": 0.2,
        "check_ttl_seconds": 1.0,
        **dict(settings),
    }
    return Service(name, command, base, folder)


@contextmanager
def running(*services: Service) -> Generator[None]:
    """All of them started; stopped at the end, last one first."""
    try:
        for service in services:
            service.start()
        for service in services:
            service.wait_ready()
        yield
    finally:
        for service in reversed(services):
            service.stop()
