"""The quota is exactly what the platform needs; it is raised before anything comes that needs more."""

from __future__ import annotations

from collections.abc import Iterator

import pulumi
import pulumi_kubernetes as k8s
import pytest

from components.lib.contracts import Placement
from components.lib.description import Demand, PodShape
from components.lib.workload import LOG_MIB, Resources
from components.quota import Quota, QuotaArgs, Room
from tests.unit.recording import Graph, record

AT = Placement(stack="dev", namespace="groundwork-dev")
SERVICE = PodShape((Resources(cpu_m=50, memory_mib=160, cpu_limit_m=1000, scratch_mib=64),), pods=4)
SERVER = PodShape(
    (Resources(cpu_m=100, memory_mib=256, cpu_limit_m=700, scratch_mib=20),),
    pods=1,
    init_containers=(Resources(cpu_m=100, memory_mib=512, cpu_limit_m=2000, scratch_mib=10),),
    claims=1,
    claim_gib=5,
)
ARGS = QuotaArgs(AT, Demand((SERVICE, SERVER)))
HARD = {
    "pods": "5",
    "requests.cpu": "300m",
    "limits.cpu": "6000m",
    "requests.memory": "1152Mi",
    "limits.memory": "1152Mi",
    "requests.ephemeral-storage": f"{4 * (64 + LOG_MIB) + 20 + LOG_MIB}Mi",
    "limits.ephemeral-storage": f"{4 * (64 + LOG_MIB) + 20 + LOG_MIB}Mi",
    "requests.storage": "5Gi",
    "persistentvolumeclaims": "1",
    "services.nodeports": "0",
}


class Hook(pulumi.ResourceHook):
    """A hook that needs no engine to be known to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opts = None
        self._registered = self  # type: ignore[assignment]

    def __await__(self) -> Iterator[None]:
        return iter(())


def built(args: QuotaArgs = ARGS, *, hook: bool = False) -> Graph:
    def program() -> None:
        provider = k8s.Provider("k8s", kubeconfig="", context="c")
        Room("room", args, raise_quota=Hook("raise-quota") if hook else None, provider=provider)
        Quota("quota", args, provider=provider)

    return record(program)


@pytest.fixture
def graph() -> Graph:
    return built()


def test_the_quota_counts_every_pod_container_and_claim(graph: Graph) -> None:
    assert graph.one("ResourceQuota", "platform")["spec.hard"] == HARD


def test_no_container_may_be_larger_than_the_largest_of_the_platform(graph: Graph) -> None:
    (limit,) = graph.one("LimitRange", "platform")["spec.limits"]
    assert limit["type"] == "Container"
    assert limit["max"] == {"cpu": "2000m", "memory": "512Mi"}


def test_a_container_without_resources_gets_small_ones(graph: Graph) -> None:
    (limit,) = graph.one("LimitRange", "platform")["spec.limits"]
    assert {"cpu", "memory", "ephemeral-storage"} == set(limit["default"]) == set(limit["defaultRequest"])


def test_what_pulumi_applies_counts_over_what_the_hook_has_raised(graph: Graph) -> None:
    for kind in ("ResourceQuota", "LimitRange"):
        assert graph.one(kind, "platform")["metadata.annotations"] == {"pulumi.com/patchForce": "true"}


def test_the_room_says_all_that_the_quota_and_the_limits_will_say(graph: Graph) -> None:
    assert graph.one("ConfigMap", "platform-demand")["data"] == {**HARD, "max.cpu": "2000m", "max.memory": "512Mi"}


def test_the_quota_is_raised_before_the_demand_changes() -> None:
    assert built(hook=True).one("ConfigMap", "platform-demand").hooks == {("before_create", "raise-quota"), ("before_update", "raise-quota")}


def test_a_plan_raises_nothing(graph: Graph) -> None:
    assert [r.name for r in graph.resources if r.hooks] == []
