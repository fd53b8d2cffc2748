"""Requests that never stop while something happens to the platform, and what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

Ask = Callable[[httpx2.Client], httpx2.Response]


@dataclass
class Load:
    """What the requests found. `failed` says of each that did not succeed when it was, seconds after the start, and how it ended."""

    began: float = field(default_factory=time.monotonic)
    answers: list[httpx2.Response] = field(default_factory=list[httpx2.Response])
    failed: list[str] = field(default_factory=list[str])

    def one(self, ask: Ask, session: httpx2.Client) -> None:
        """One request."""
        try:
            answer = ask(session)
        except httpx2.HTTPError as error:
            self.failed.append(f"after {time.monotonic() - self.began:.2f} s: {error!r}")
            return
        self.answers.append(answer)
        if not answer.is_success:
            self.failed.append(f"after {time.monotonic() - self.began:.2f} s: {answer.status_code} {answer.text[:300]}")


@contextmanager
def clients(work: Callable[[threading.Event], None], count: int) -> Generator[None]:
    """`count` threads that work until they see the event that the end of the block sets."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(stop,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def load(base_url: str, ask: Ask, *, count: int = 2, pause: float = 0.06) -> Generator[Load]:
    """`count` clients, each with one kept connection, as a service would have; they stop at the end of the block.

    All of them together stay below the rate that one caller may ask at.
    """
    found = Load()

    def client(stop: threading.Event) -> None:
        with httpx2.Client(base_url=base_url, timeout=10) as session:
            while not stop.wait(pause):
                found.one(ask, session)

    with clients(client, count):
        yield found
