"""Who may change live configuration and see details: a ServiceAccount that no pod runs as.

`kubectl create token operator --audience groundwork` gives a person who may create tokens in the namespace a short-lived one.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider, core

from components.lib import labels, options
from components.lib.contracts import Placement

NAME = "operator"
SCOPES = ("config:write", "health:details", "registry:admin")


@dataclass(frozen=True)
class OperatorAccountArgs:
    """The operator's account lives in the stack's namespace."""

    at: Placement


def subject(namespace: str) -> str:
    """What the `sub` claim of the account's tokens says."""
    return f"system:serviceaccount:{namespace}:{NAME}"


class OperatorAccount(pulumi.ComponentResource):
    """The account. Output: `subject`, as its tokens name it."""

    subject: str

    def __init__(self, name: str, args: OperatorAccountArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:kubernetes:Operator", name, None, opts)
        core.v1.ServiceAccount(
            name,
            metadata=labels.metadata(NAME, name, args.at),
            automount_service_account_token=False,
            opts=options.children(self, provider)(),
        )
        self.subject = subject(args.at.namespace)
        self.register_outputs({"subject": self.subject})
