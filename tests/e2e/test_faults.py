"""An engine's pod is killed under load, with no time to say goodbye. What was promised with a 201 is kept."""

from __future__ import annotations

import threading
import uuid

import pytest

from tests.e2e.cluster import Platform, eventually
from tests.e2e.demo import Documents, documents

RECOVERY_SECONDS = 180  # until the engine is ready again: how long its own start takes is not the promise
PROMISE_SECONDS = 60  # from then on, until every promised document is readable and indexed


def load(work: Documents, stop: threading.Event) -> None:
    """Creates documents until told to stop."""
    while not stop.is_set():
        work.create(f"w{uuid.uuid4().hex}")
        stop.wait(0.1)


@pytest.mark.parametrize("engine", ["postgres", "redis", "rabbitmq", "consul"])
def test_no_promised_document_is_lost_when_an_engine_is_killed(platform: Platform, engine: str) -> None:
    work = documents(platform)
    stop = threading.Event()
    writers = [threading.Thread(target=load, args=(work, stop)) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        eventually("some documents before the fault", lambda: len(work.promised) >= 10 or None)
        before = platform.uids(engine)
        platform.kill(engine)
        eventually(f"{engine} is ready again", lambda: platform.replaced(engine, before) or None, seconds=RECOVERY_SECONDS)
        served = len(work.promised)
        eventually("documents are taken again", lambda: len(work.promised) > served or None)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    work.all_kept(seconds=PROMISE_SECONDS)
    for service in ("document-service", "user-service", "registry", "config"):
        eventually(f"{service} is ready", lambda name=service: platform.all_ready(name) or None)
