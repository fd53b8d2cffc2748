"""The stack's namespace: safe pods only, and no connection that nobody declared.

https://kubernetes.io/docs/concepts/security/pod-security-admission/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pulumi
from pulumi_kubernetes import Provider, core, meta, networking

from components.lib import labels, options
from components.lib.contracts import Placement

DEFAULT_DENY = "default-deny"
PodSecurity = Literal["restricted", "baseline", "privileged"]


@dataclass(frozen=True)
class NamespaceArgs:
    """`pod_security` is the level that every pod must keep. With `retain_data` a destroy leaves the namespace, and the volumes in it.

    `rotation` is the generation of credentials that is in use there, `cluster` what the provider takes the cluster for.
    """

    name: str
    stack: str
    pod_security_version: str
    pod_security: PodSecurity = "restricted"
    rotation: int = 1
    cluster: str = ""
    retain_data: bool = False


def namespace_labels(name: str, args: NamespaceArgs) -> dict[str, str]:
    """The labels of the namespace: its Pod Security Standard, at a pinned version, refused as well as audited and warned of."""
    security = {
        f"pod-security.kubernetes.io/{mode}{suffix}": value
        for mode in ("enforce", "audit", "warn")
        for suffix, value in (("", args.pod_security), ("-version", args.pod_security_version))
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
        child = options.children(self, provider)
        annotations = {labels.ROTATION: str(args.rotation), labels.CLUSTER: args.cluster}
        namespace = core.v1.Namespace(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=args.name, labels=namespace_labels(name, args), annotations=annotations),
            opts=child(retain=args.retain_data),
        )
        self.name = namespace.metadata.name.apply(str)
        at = Placement(stack=args.stack, namespace=args.name, created=self.name)
        networking.v1.NetworkPolicy(f"{name}-default-deny", metadata=labels.metadata(DEFAULT_DENY, name, at), spec=default_deny(), opts=child())
        self.register_outputs({"name": self.name})
