"""Certificates are renewed while the platform works: nothing restarts, no request is refused."""

from __future__ import annotations

from groundwork.platform_outputs import parse
from tests.e2e import stack
from tests.e2e.cluster import Platform
from tests.e2e.demo import creating, documents
from tests.e2e.tls import shown

ENGINES = ("postgres", "redis", "rabbitmq", "consul")
LEAF = "tls:index/locallySignedCert:LocallySignedCert"


def pods(platform: Platform) -> dict[str, set[str]]:
    """The pods of the engines, by uid."""
    return {engine: platform.uids(engine) for engine in ENGINES}


def test_renewed_certificates_are_shown_by_servers_that_never_restarted(platform: Platform) -> None:
    work = documents(platform)
    before, running = {engine: shown(platform, engine) for engine in ENGINES}, pods(platform)
    replaced = [word for engine in ENGINES for word in ("--replace", f"**{LEAF}::certificates-{engine}")]

    with creating(work):
        stack.succeeded(platform.stack.pulumi_up(*replaced))

    after = {engine: shown(platform, engine) for engine in ENGINES}
    assert {engine for engine in ENGINES if after[engine] == before[engine]} == set()
    assert pods(platform) == running
    assert work.failed == []
    work.all_kept(seconds=60)


def test_days_left_stand_in_the_outputs(platform: Platform) -> None:
    left = parse(platform.stack.outputs()).days_left()
    assert left.keys() == {"ca", *ENGINES}
    assert all(88 <= left[engine] <= 90 for engine in ENGINES)
    assert left["ca"] > 3600
