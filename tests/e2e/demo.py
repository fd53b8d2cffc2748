"""The demo request: one request through two services that touches every engine."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx2

from tests.e2e.cluster import Platform, eventually
from tests.e2e.load import clients


@dataclass
class Documents:
    """Creates documents and remembers each one that the platform answered with 201: a promise to keep."""

    platform: Platform
    author: str
    promised: dict[str, str] = field(default_factory=dict[str, str])
    failed: list[str] = field(default_factory=list[str])

    def create(self, word: str) -> str | None:
        """A document whose body is `word`; its id, or None where the platform did not take it."""
        try:
            with self.platform.http("document-service") as session:
                answer = session.post("/api/v1/documents", json={"title": f"About {word}", "body": word, "author_id": self.author})
        except httpx2.HTTPError as error:
            self.failed.append(f"{datetime.now(UTC):%H:%M:%S.%f} {error!r}")
            return None
        if answer.status_code != 201:
            self.failed.append(f"{datetime.now(UTC):%H:%M:%S.%f} {answer.status_code} {answer.text[:300]}")
            return None
        identity = str(answer.json()["id"])
        self.promised[identity] = word
        return identity

    def kept(self, identity: str, word: str) -> bool:
        """Whether a document is readable, indexed and found by its word."""
        with self.platform.http("document-service") as session:
            read = session.get(f"/api/v1/documents/{identity}")
            if read.status_code != 200 or not read.json()["indexed"]:
                return False
            found = session.get("/api/v1/documents", params={"q": word})
            return found.status_code == 200 and identity in found.text

    def all_kept(self, *, seconds: float) -> None:
        """Every promised document is readable and indexed within `seconds`."""
        for identity, word in self.promised.items():
            eventually(f"document {identity} is readable and indexed", lambda i=identity, w=word: self.kept(i, w) or None, seconds=seconds)


def documents(platform: Platform) -> Documents:
    """A new author and no documents."""
    with platform.http("user-service") as session:
        answer = session.post("/api/v1/users", json={"name": "Ada", "email": f"{uuid.uuid4()}@example.com"})
        assert answer.status_code == 201, answer.text
        return Documents(platform, str(answer.json()["id"]))


@contextmanager
def creating(work: Documents, *, count: int = 2, pause: float = 0.1) -> Generator[None]:
    """`count` clients that create documents until the end of the block."""

    def client(stop: threading.Event) -> None:
        while not stop.is_set():
            work.create(f"w{uuid.uuid4().hex}")
            stop.wait(pause)

    with clients(client, count):
        yield
