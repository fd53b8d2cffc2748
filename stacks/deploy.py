"""The program that Pulumi runs: read the stack file, look at the cluster, register everything."""

from __future__ import annotations

import pulumi

from stacks import platform, settings
from stacks.cluster.read import read


def deploy() -> None:
    """Deploys the current stack. Raises InvalidStackFile or UnusableCluster before anything is registered."""
    stack, chosen = pulumi.get_stack(), settings.load()
    facts = read(chosen.cluster.context, f"Pulumi.{stack}.yaml", chosen.namespace_of(stack))
    for warning in facts.warnings:
        pulumi.log.warn(warning)
    platform.build(stack, chosen)
