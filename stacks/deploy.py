"""The program that Pulumi runs: read the stack file, look at the cluster, register everything."""

from __future__ import annotations

import pulumi

from stacks import platform, preflight, settings


def deploy() -> None:
    """Deploys the current stack. Raises InvalidStackFile or UnusableCluster before anything is registered."""
    stack, chosen = pulumi.get_stack(), settings.load()
    preflight.check(chosen.cluster.context, f"Pulumi.{stack}.yaml")
    platform.build(stack, chosen)
