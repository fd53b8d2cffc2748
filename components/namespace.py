"""The stack's namespace: safe pods only, and no connection that nobody declared.

https://kubernetes.io/docs/concepts/security/pod-security-admission/
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, core, meta, networking

from components import labels
from components.contracts import Placement


@dataclass(frozen=True)
class NamespaceArgs:
    """`retain_data` protects the namespace, and so all that lives in it, from a destroy."""

    name: str
    stack: str
    pod_security_version: str
    retain_data: bool = False


def namespace_labels(name: str, args: NamespaceArgs) -> dict[str, str]:
    """The labels of the namespace: Pod Security Standard `restricted`, at a pinned version, refused as well as audited and warned of."""
    security = {
        f"pod-security.kubernetes.io/{mode}{suffix}": value
        for mode in ("enforce", "audit", "warn")
        for suffix, value in (("", "restricted"), ("-version", args.pod_security_version))
    }
    return {**labels.labels(name, args.stack), **security}


def default_deny() -> networking.v1.NetworkPolicySpecArgs:
    """No connection in or out of any pod, but those that another policy allows."""
    return networking.v1.NetworkPolicySpecArgs(pod_selector=meta.v1.LabelSelectorArgs(), policy_types=["Ingress", "Egress"])


class Namespace(pulumi.ComponentResource):
    """The namespace. Output: `name`. What goes into it should depend on this component: a pod must not come before the default deny."""

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
        networking.v1.NetworkPolicy(f"{name}-default-deny", metadata=labels.metadata("default-deny", name, at), spec=default_deny(), opts=child)
        self.name = namespace.metadata.name.apply(str)
        self.register_outputs({"name": self.name})
