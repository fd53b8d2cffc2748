"""The program that Pulumi runs: read the stack file, ask the cluster, refuse what cannot be, register everything."""

from __future__ import annotations

import pulumi

from stacks import platform, stackfile
from stacks.catalog import ENGINES
from stacks.cluster import headroom
from stacks.cluster.changes import Wanted, WantedEngine, problems
from stacks.cluster.read import read
from stacks.settings import StackSettings


def wanted(stack: str, settings: StackSettings) -> Wanted:
    """What the stack file asks for, as far as a running stack may stand against it."""
    engines = {
        kind.name: WantedEngine(kind.servers(settings.engine(kind.name)), settings.engine(kind.name).storage_gib, settings.images.of(kind.name))
        for kind in ENGINES.values()
    }
    return Wanted(
        settings.namespace_of(stack),
        settings.cluster.storage_class,
        settings.rotation,
        engines,
        settings.certificates.authority,
        settings.certificates.trusted,
        frozenset(name for name, value in settings.cluster if value is not None),
    )


def deploy() -> None:
    """Deploys the current stack. Raises InvalidStackFile or UnusableCluster before anything is registered."""
    stack, settings = pulumi.get_stack(), stackfile.load()
    namespace = settings.namespace_of(stack)
    facts = read(settings.cluster.context, stack, namespace)
    for warning in facts.warnings:
        pulumi.log.warn(warning)
    if found := problems(stack, wanted(stack, settings), facts):
        raise stackfile.refusal(found)
    platform.build(stack, settings, facts, raise_quota=headroom.hook(settings.cluster.context, namespace))
