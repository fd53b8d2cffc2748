"""A fake of an API server on loopback: it answers what was recorded, to the real client, and refuses what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

RECORDED = Path(__file__).parent / "recorded"
TOKEN = "the-token-of-the-kubeconfig"
NAMESPACED = {"services", "endpointslices", "persistentvolumeclaims", "statefulsets", "jobs", "secrets"}


def recorded(name: str) -> dict[str, Any]:
    """The answers of a cluster of that kind, by path."""
    return json.loads((RECORDED / f"{name}.json").read_text())


@dataclass
class Answers:
    """What the server answers. `status` and `raw` win over `by_path`; `held` keeps an answer back until it is set."""

    by_path: dict[str, Any]
    status: dict[str, int] = field(default_factory=dict[str, int])
    raw: dict[str, bytes] = field(default_factory=dict[str, bytes])
    held: dict[str, threading.Event] = field(default_factory=dict[str, threading.Event])
    asked: Counter[str] = field(default_factory=Counter[str])
    queries: dict[str, str] = field(default_factory=dict[str, str])

    def answer(self, url: str, authorization: str | None) -> tuple[int, bytes]:
        """Status and body for GET `url`."""
        parts = urlsplit(url)
        self.asked[parts.path] += 1
        self.queries[parts.path] = parts.query
        if (held := self.held.get(parts.path)) is not None:
            held.wait()
        if authorization != f"Bearer {TOKEN}" and parts.path != "/version":
            return 401, b'{"kind":"Status","code":401}'
        if (status := self.status.get(parts.path)) is not None:
            return status, json.dumps({"kind": "Status", "code": status}).encode()
        if (raw := self.raw.get(parts.path)) is not None:
            return 200, raw
        found = self.by_path.get(parts.path)
        if found is None:
            # A list in a namespace that is not there is empty; an object is not found.
            empty = parts.path == "/api/v1/namespaces" or (parts.path.rpartition("/")[2] in NAMESPACED and "/namespaces/" in parts.path)
            return (200, b'{"kind":"List","items":null}') if empty else (404, b'{"kind":"Status","code":404}')
        return 200, json.dumps(selected(found, parse_qs(parts.query).get("labelSelector", [""])[0])).encode()


def selected(answer: dict[str, Any], selector: str) -> dict[str, Any]:
    """A list with those of its items that have all labels of the selector `key=value,...`."""
    if not selector:
        return answer
    wanted = dict(term.split("=", 1) for term in selector.split(","))
    return {**answer, "items": [item for item in answer["items"] if wanted.items() <= (item["metadata"].get("labels") or {}).items()]}


def handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    """The server's way to answer."""

    class Recorded(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body go in two packets

        def do_GET(self) -> None:
            status, body = answers.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class names it
            """Quiet."""

    return Recorded


def serving(answers: Answers) -> ThreadingHTTPServer:
    """The server, on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(answers))
    server.daemon_threads = True
    return server
