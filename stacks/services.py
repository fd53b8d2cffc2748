"""The HTTP services of a stack: the platform's own, which work with Consul alone, and the teams', in the words of their component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pulumi

from components import operator_account
from components.lib import versions
from components.lib.contracts import Placement
from components.operator_account import subject
from components.service import Call, Issuer, ServiceArgs
from stacks.catalog import FOR_ALL
from stacks.cluster.effective import Cluster
from stacks.kind import Part
from stacks.settings import PLATFORM_SERVICES, ReplicatedSettings, StackSettings

# What a ServiceAccount may do with the platform's APIs: everything that concerns the service it is, and reading.
SERVICE_ACCOUNT_SCOPES = ("registry:read", "registry:write", "config:read")
REGISTRY = "registry"


@dataclass(frozen=True)
class Shared:
    """What every service of a stack has."""

    at: Placement
    image: pulumi.Input[str]
    ca: str
    issuer: Issuer
    profile: str


def issuer(cluster: Cluster, at: Placement) -> Issuer:
    """The cluster as an issuer: the stack's ServiceAccounts own the services of their names, and the operator's may do more."""
    return Issuer(
        cluster.issuer,
        cluster.jwks_url,
        scopes=SERVICE_ACCOUNT_SCOPES,
        namespaces=(at.namespace,),
        operator=subject(at.namespace),
        operator_scopes=operator_account.SCOPES,
        in_cluster=cluster.keys_in_cluster,
    )


def arguments(settings: StackSettings, shared: Shared, engines: Mapping[str, Part]) -> dict[str, ServiceArgs]:
    """Every service by its name, the platform's own first. Nothing is registered yet."""
    made: dict[str, ServiceArgs] = {}
    for name in PLATFORM_SERVICES:
        entry: ReplicatedSettings = getattr(settings, name)
        uses = tuple(engines[kind].use(name, True) for kind in FOR_ALL)  # noqa: FBT003 they are nothing without it
        made[name] = replace(common(shared, entry), command=("-m", "app", name), uses=uses, version=versions.GROUNDWORK)
    calls = {name: Call(shared.at.workload(name)) for name in PLATFORM_SERVICES}
    calls |= {name: Call(shared.at.workload(name), entry.port) for name, entry in settings.services.items()}
    for name, entry in sorted(settings.services.items()):
        uses = (
            *(engines[kind].use(name, kind not in entry.optional) for kind in entry.uses),
            *(engines[kind].use(name, False) for kind in FOR_ALL),  # noqa: FBT003 it works on with what it last saw
        )
        made[name] = replace(
            common(shared, entry),
            image=entry.image or shared.image,
            command=entry.command,
            port=entry.port,
            uses=uses,
            calls=tuple(calls[called] for called in dict.fromkeys((*entry.calls, REGISTRY))),
            registry_url=f"http://{shared.at.host(REGISTRY)}:{calls[REGISTRY].port}",
        )
    return made


def common(shared: Shared, entry: ReplicatedSettings) -> ServiceArgs:
    """What every service has."""
    return ServiceArgs(
        shared.at,
        shared.image,
        ("-m", "app"),
        shared.profile,
        shared.ca,
        replicas=entry.replicas,
        resources=entry.resources.resources(),
        issuers=(shared.issuer,),
    )
