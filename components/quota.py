"""What the namespace may use: exactly what the platform needs, computed from what runs in it.

https://kubernetes.io/docs/concepts/policy/resource-quotas/ and https://kubernetes.io/docs/concepts/policy/limit-range/
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, core

from components import labels
from components.contracts import Placement
from components.workload import Demand, Resources

OBJECT_NAME = "platform"


@dataclass(frozen=True)
class QuotaArgs:
    """`demand` is what all workloads together need at most; `largest` bounds a single container."""

    at: Placement
    demand: Demand
    largest: Resources


def largest(resources: Iterable[Resources]) -> Resources:
    """The smallest resources that none of `resources` exceeds."""
    each = list(resources)
    return Resources(
        cpu_m=max(r.cpu_m for r in each),
        memory_mib=max(r.memory_mib for r in each),
        cpu_limit_m=max(r.cpu_limit_m for r in each),
        scratch_mib=max(r.scratch_mib for r in each),
    )


def quota(demand: Demand) -> core.v1.ResourceQuotaSpecArgs:
    """Exactly what the platform needs at most: one more pod of its kind is refused. Nothing may open a port on the nodes."""
    return core.v1.ResourceQuotaSpecArgs(
        hard={
            "pods": str(demand.pods),
            "requests.cpu": f"{demand.cpu_m}m",
            "limits.cpu": f"{demand.cpu_limit_m}m",
            "requests.memory": f"{demand.memory_mib}Mi",
            "limits.memory": f"{demand.memory_mib}Mi",
            "requests.ephemeral-storage": f"{demand.scratch_mib}Mi",
            "limits.ephemeral-storage": f"{demand.scratch_mib}Mi",
            "requests.storage": f"{demand.storage_gib}Gi",
            "persistentvolumeclaims": str(demand.claims),
            "services.nodeports": "0",
        }
    )


def limits(largest: Resources) -> core.v1.LimitRangeSpecArgs:
    """No container above the largest that the platform has; one that names no resources gets small ones, not a refusal."""
    return core.v1.LimitRangeSpecArgs(
        limits=[
            core.v1.LimitRangeItemArgs(
                type="Container",
                max={"cpu": f"{largest.cpu_limit_m}m", "memory": f"{largest.memory_mib}Mi"},
                default={"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "32Mi"},
                default_request={"cpu": "10m", "memory": "64Mi", "ephemeral-storage": "32Mi"},
            )
        ]
    )


class Quota(pulumi.ComponentResource):
    """The namespace's quota and limits. Workloads should depend on it: a service added to the stack needs the raised quota first."""

    def __init__(self, name: str, args: QuotaArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:kubernetes:Quota", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        core.v1.ResourceQuota(name, metadata=labels.metadata(OBJECT_NAME, name, args.at), spec=quota(args.demand), opts=child)
        core.v1.LimitRange(name, metadata=labels.metadata(OBJECT_NAME, name, args.at), spec=limits(args.largest), opts=child)
        self.register_outputs({})
