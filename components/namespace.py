"""The stack's namespace: safe pods only, and no connection that nobody declared.

https://kubernetes.io/docs/concepts/security/pod-security-admission/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pulumi
from pulumi_kubernetes import Provider, core, meta, networking

from components.lib import labels, options
from components.lib.contracts import Placement
from components.lib.problems import Problem, refuse

DEFAULT_DENY = "default-deny"
# The stack's name is the label of all objects, stands in the names of cluster-wide ones, and in the authority's common name
# "Groundwork STACK CA", of which X.509 (RFC 5280, ub-common-name) allows 64 letters.
MAX_STACK = 64 - len("Groundwork  CA")
_STACK = re.compile(rf"[a-z0-9]([a-z0-9-]{{0,{MAX_STACK - 2}}}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123
PodSecurity = Literal["restricted", "baseline", "privileged"]


@dataclass(frozen=True)
class NamespaceArgs:
    """`pod_security` is the level that every pod must keep. With `retain_data` a destroy leaves the namespace, and the volumes in it.

    `rotation` is the generation of credentials that is in use there, `cluster` what the provider takes the cluster for,
    `authority` and `trusted` who signs certificates and whom clients trust.
    """

    name: str
    stack: str
    pod_security_version: str
    pod_security: PodSecurity = "restricted"
    rotation: int = 1
    cluster: str = ""
    authority: int = 1
    trusted: tuple[int, ...] = (1,)
    retain_data: bool = False

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem]:
        if not _STACK.fullmatch(self.stack):
            what = f"a stack's name may have at most {MAX_STACK} of a-z, 0-9 and -, as all its objects carry it: pulumi stack rename NAME"
            yield Problem("stack", what, self.stack)
        elif not _NAMESPACE.fullmatch(self.name):
            yield Problem("namespace", "a namespace's name may have at most 63 of a-z, 0-9 and -: choose another one", self.name)


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
        annotations = {
            labels.ROTATION: str(args.rotation),
            labels.CLUSTER: args.cluster,
            labels.AUTHORITY: str(args.authority),
            labels.TRUSTED: ",".join(map(str, sorted(args.trusted))),
        }
        namespace = core.v1.Namespace(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=args.name, labels=namespace_labels(name, args), annotations=annotations),
            opts=child(retain=args.retain_data),
        )
        self.name = namespace.metadata.name.apply(str)
        at = Placement(stack=args.stack, namespace=args.name, created=self.name)
        networking.v1.NetworkPolicy(f"{name}-default-deny", metadata=labels.metadata(DEFAULT_DENY, name, at), spec=default_deny(), opts=child())
        self.register_outputs({"name": self.name})
