"""A stack that keeps its data is destroyed and comes back: volumes and what opens them are there. In between, a volume grows."""

# pyright: basic, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportReturnType=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kubernetes import client

from groundwork.platform_outputs import parse
from tests.e2e import names, stack
from tests.e2e.cluster import Platform, eventually
from tests.e2e.demo import documents

KEEP = "retain_data=true"
GROWN = "postgres.storage_gib=2"
ENGINES = ("postgres", "redis", "rabbitmq", "consul")

pytestmark = pytest.mark.sandbox("a stack of its own, and a storage class that it may change")


@pytest.fixture
def kept() -> Iterator[Platform]:
    """A second stack, which keeps its data until the test is over."""
    second = stack.SandboxStack(f"{stack.STACK}-kept")
    second.up(KEEP)
    platform = Platform(parse(second.outputs()), second)
    with names.resolved(names.cluster_ips(platform.core, platform.namespace)):
        yield platform
    second.up(GROWN)
    second.destroy()


@pytest.fixture
def expandable(platform: Platform) -> Iterator[Callable[[], None]]:
    """Lets the volumes of the storage class grow, as far as the API server is concerned: no provisioner here can really resize one."""
    storage = client.StorageV1Api(platform.api)
    yield lambda: storage.patch_storage_class("local-path", {"allowVolumeExpansion": True})
    storage.patch_storage_class("local-path", {"allowVolumeExpansion": False})


def claims(platform: Platform) -> dict[str, str]:
    """What each claim asks for, by name."""
    found = platform.core.list_namespaced_persistent_volume_claim(platform.namespace).items
    return {claim.metadata.name: claim.spec.resources.requests["storage"] for claim in found}


def volumes(platform: Platform) -> set[str]:
    """Which volumes the claims are bound to."""
    return {claim.spec.volume_name for claim in platform.core.list_namespaced_persistent_volume_claim(platform.namespace).items}


def assert_refused(platform: Platform, setting: str) -> None:
    """The program names the setting, and nothing is changed."""
    before = claims(platform)
    done = platform.stack.try_up(KEEP, setting)
    assert done.returncode != 0
    assert "settings.postgres.storage_gib" in done.stdout + done.stderr
    assert claims(platform) == before


def test_data_outlives_a_destroy_and_a_volume_grows_under_it(kept: Platform, expandable: Callable[[], None]) -> None:
    work = documents(kept)
    assert work.create("before") is not None
    work.all_kept(seconds=60)
    before = volumes(kept)

    assert_refused(kept, GROWN)
    expandable()
    kept.stack.up(KEEP, GROWN)
    assert claims(kept)["data-postgres-0"] == "2Gi"
    work.all_kept(seconds=60)
    assert_refused(kept, "postgres.storage_gib=1")

    kept.stack.destroy()
    assert kept.all_pods("postgres") == []
    assert volumes(kept) == before
    assert {f"{engine}-secrets" for engine in ENGINES} <= {s.metadata.name for s in kept.core.list_namespaced_secret(kept.namespace).items}

    kept.stack.up(KEEP, GROWN)
    assert volumes(kept) == before
    kept_again = Platform(parse(kept.stack.outputs()), kept.stack)
    with names.resolved(names.cluster_ips(kept_again.core, kept_again.namespace)):
        work.platform = kept_again
        work.all_kept(seconds=60)
        assert work.create("after") is not None


def test_a_stack_that_kept_nothing_is_gone_at_last(platform: Platform) -> None:
    namespace = f"groundwork-{stack.STACK}-kept"

    def gone() -> bool | None:
        return namespace not in {found.metadata.name for found in platform.core.list_namespace().items} or None

    eventually("the namespace is gone", gone, seconds=120)
