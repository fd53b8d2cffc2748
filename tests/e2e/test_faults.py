"""An engine's pod is killed under load, with no time to say goodbye. What was promised with a 201 is kept."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import Platform, eventually
from tests.e2e.demo import creating, documents

RECOVERY_SECONDS = 180  # until the engine is ready again: how long its own start takes is not the promise
PROMISE_SECONDS = 60  # from then on, until every promised document is readable and indexed


@pytest.mark.parametrize("engine", ["postgres", "redis", "rabbitmq", "consul"])
def test_no_promised_document_is_lost_when_an_engine_is_killed(platform: Platform, engine: str) -> None:
    work = documents(platform)
    with creating(work):
        eventually("some documents before the fault", lambda: len(work.promised) >= 10 or None)
        before = platform.uids(engine)
        platform.kill(engine)
        eventually(f"{engine} is ready again", lambda: platform.replaced(engine, before) or None, seconds=RECOVERY_SECONDS)
        served = len(work.promised)
        eventually("documents are taken again", lambda: len(work.promised) > served or None)
    work.all_kept(seconds=PROMISE_SECONDS)
    for service in ("document-service", "user-service", "registry", "config"):
        eventually(f"{service} is ready", lambda name=service: platform.all_ready(name) or None)
