"""How a component registers its children: one closure, so that none of them lacks its parent or its provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pulumi
from pulumi_kubernetes import Provider


class Child(Protocol):
    """The options of one child."""

    def __call__(
        self,
        *,
        depends_on: Sequence[pulumi.Resource] = (),
        retain: bool = False,
        ignore_changes: Sequence[str] = (),
        aliases: Sequence[pulumi.Alias] = (),
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.ResourceOptions:
        """`retain` keeps the object when the stack is destroyed."""
        ...


def children(parent: pulumi.Resource, provider: Provider) -> Child:
    """The options of the Kubernetes objects of `parent`."""

    def child(
        *,
        depends_on: Sequence[pulumi.Resource] = (),
        retain: bool = False,
        ignore_changes: Sequence[str] = (),
        aliases: Sequence[pulumi.Alias] = (),
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=parent,
            provider=provider,
            depends_on=list(depends_on) or None,
            retain_on_delete=retain or None,
            ignore_changes=list(ignore_changes) or None,
            aliases=list(aliases) or None,
            hooks=hooks,
        )

    return child
