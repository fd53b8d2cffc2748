"""The stack's namespace and its guard rails: pod security, quota, limits, and no connection that nobody declared.

https://kubernetes.io/docs/concepts/security/pod-security-admission/ and https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, core, meta, networking

from components import labels
from components.contracts import Placement
from components.workload import Demand, Resources


@dataclass(frozen=True)
class NamespaceArgs:
    """`demand` is what all workloads together need at most; `largest` the biggest single pod's resources among them."""

    name: str
    stack: str
    pod_security_version: str
    demand: Demand
    largest: Resources
    retain_data: bool = False


def namespace_labels(name: str, args: NamespaceArgs) -> dict[str, str]:
    """The labels of the namespace: Pod Security Standard `restricted`, at a pinned version, refused as well as audited and warned of."""
    security = {
        f"pod-security.kubernetes.io/{mode}{suffix}": value
        for mode in ("enforce", "audit", "warn")
        for suffix, value in (("", "restricted"), ("-version", args.pod_security_version))
    }
    return {**labels.labels(name, args.stack), **security}


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


def default_deny() -> networking.v1.NetworkPolicySpecArgs:
    """No connection in or out of any pod, but those that another policy allows."""
    return networking.v1.NetworkPolicySpecArgs(pod_selector=meta.v1.LabelSelectorArgs(), policy_types=["Ingress", "Egress"])


class Namespace(pulumi.ComponentResource):
    """The namespace. Output: `name`. What goes into it should depend on this component: a pod must not come before the guard rails."""

    name: pulumi.Output[str]

    def __init__(self, name: str, args: NamespaceArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:kubernetes:Namespace", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        namespace = core.v1.Namespace(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=args.name, labels=namespace_labels(name, args)),
            opts=pulumi.ResourceOptions(parent=self, provider=provider, protect=args.retain_data or None),
        )
        at = Placement(stack=args.stack, namespace=namespace.metadata.name)
        core.v1.ResourceQuota(f"{name}-quota", metadata=labels.metadata("platform", name, at), spec=quota(args.demand), opts=child)
        core.v1.LimitRange(f"{name}-limits", metadata=labels.metadata("platform", name, at), spec=limits(args.largest), opts=child)
        networking.v1.NetworkPolicy(f"{name}-default-deny", metadata=labels.metadata("default-deny", name, at), spec=default_deny(), opts=child)
        self.name = namespace.metadata.name.apply(str)
        self.register_outputs({"name": self.name})
