"""What the namespace may use: exactly what the platform needs, computed from what runs in it.

A quota must be raised before pods come that need more, and lowered after those that needed more are gone. So the exact quota is
registered last, after all workloads; and before the first of them a hook raises what is there to the larger of the two, field by field.
https://kubernetes.io/docs/concepts/policy/resource-quotas/ and https://kubernetes.io/docs/concepts/policy/limit-range/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, core

from components.lib import labels, options
from components.lib.contracts import Placement
from components.lib.description import Demand

OBJECT_NAME = "platform"
DEMAND_NAME = "platform-demand"
MAX = "max."  # begins the keys of the demand that are of the largest container
# The hook changes fields that Pulumi owns; what Pulumi applies last is what counts.
FORCED = {"pulumi.com/patchForce": "true"}


@dataclass(frozen=True)
class QuotaArgs:
    """`demand` is what all workloads together need at most."""

    at: Placement
    demand: Demand


def hard(demand: Demand) -> dict[str, str]:
    """Exactly what the platform needs at most: one more pod of its kind is refused. Nothing may open a port on the nodes."""
    return {
        "pods": str(demand.pods),
        "requests.cpu": f"{demand.sum('cpu_m')}m",
        "limits.cpu": f"{demand.sum('cpu_limit_m')}m",
        "requests.memory": f"{demand.sum('memory_mib')}Mi",
        "limits.memory": f"{demand.sum('memory_mib')}Mi",
        "requests.ephemeral-storage": f"{demand.sum('ephemeral_mib')}Mi",
        "limits.ephemeral-storage": f"{demand.sum('ephemeral_mib')}Mi",
        "requests.storage": f"{demand.storage_gib}Gi",
        "persistentvolumeclaims": str(demand.claims),
        "services.nodeports": "0",
    }


def largest(demand: Demand) -> dict[str, str]:
    """What no container of the platform exceeds."""
    return {"cpu": f"{demand.largest('cpu_limit_m')}m", "memory": f"{demand.largest('memory_mib')}Mi"}


def limits(demand: Demand) -> core.v1.LimitRangeSpecArgs:
    """No container above the largest that the platform has; one that names no resources gets small ones, not a refusal."""
    small = {"memory": "64Mi", "ephemeral-storage": "32Mi"}
    item = core.v1.LimitRangeItemArgs(
        type="Container", max=largest(demand), default={"cpu": "100m", **small}, default_request={"cpu": "10m", **small}
    )
    return core.v1.LimitRangeSpecArgs(limits=[item])


def demand_data(demand: Demand) -> Mapping[str, str]:
    """The demand as a ConfigMap has it: the keys of the quota, and the two of the largest container."""
    return {**hard(demand), **{f"{MAX}{key}": value for key, value in largest(demand).items()}}


class Room(pulumi.ComponentResource):
    """Makes room for what is about to be deployed. Workloads must depend on it.

    The ConfigMap changes exactly when the demand does, and `raise_quota` runs before each change of it.
    """

    def __init__(
        self,
        name: str,
        args: QuotaArgs,
        *,
        raise_quota: pulumi.ResourceHook | None,
        provider: Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("groundwork:kubernetes:Room", name, None, opts)
        child = options.children(self, provider)
        hooks = pulumi.ResourceHookBinding(before_create=[raise_quota], before_update=[raise_quota]) if raise_quota else None
        core.v1.ConfigMap(name, metadata=labels.metadata(DEMAND_NAME, name, args.at), data=dict(demand_data(args.demand)), opts=child(hooks=hooks))
        self.register_outputs({})


class Quota(pulumi.ComponentResource):
    """The namespace's quota and limits, exact. It must depend on all workloads: lowered earlier, it would refuse those that replace larger ones."""

    def __init__(self, name: str, args: QuotaArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:kubernetes:Quota", name, None, opts)
        child = options.children(self, provider)
        metadata = labels.metadata(OBJECT_NAME, name, args.at, annotations=FORCED)
        spec = core.v1.ResourceQuotaSpecArgs(hard=hard(args.demand))
        core.v1.ResourceQuota(name, metadata=metadata, spec=spec, opts=child())
        core.v1.LimitRange(name, metadata=metadata, spec=limits(args.demand), opts=child())
        self.register_outputs({})
