"""What stateful servers have in common: their two Services, the StatefulSet, its claims, and where certificates lie in a pod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pulumi_kubernetes import apps, core, meta

from components.lib import labels, workload
from components.lib.contracts import Placement, Protocol, ServerTls
from components.lib.workload import Mount

TLS = "/run/groundwork/tls"
CA = "/run/groundwork/ca"
MAX_STORAGE_GIB = 65536  # what the largest volumes of the large clouds hold; beyond it a number is a slip of the pen

# A claim waits for its first pod on storage classes that bind late (WaitForFirstConsumer), and the pod waits for the claim to exist.
UNAWAITED = {"pulumi.com/skipAwait": "true"}


@dataclass(frozen=True)
class Port:
    """A port of a server, the same in the container and in its Services. `app_protocol` is what a mesh takes it for."""

    name: str
    number: int
    protocol: Protocol = Protocol.TCP
    app_protocol: str = "tls"


def tls_mounts(tls: ServerTls) -> list[Mount]:
    """The server's certificate and key, readable by its group alone, and the CA."""
    return [workload.from_secret("tls", TLS, tls.secret), workload.from_config_map("ca", CA, tls.ca)]


def container_ports(ports: Sequence[Port]) -> list[core.v1.ContainerPortArgs]:
    """The ports as the container declares them."""
    return [core.v1.ContainerPortArgs(name=port.name, container_port=port.number, protocol=port.protocol) for port in ports]


def _service_ports(ports: Sequence[Port]) -> list[core.v1.ServicePortArgs]:
    return [
        core.v1.ServicePortArgs(name=port.name, port=port.number, target_port=port.name, protocol=port.protocol, app_protocol=port.app_protocol)
        for port in ports
    ]


def service(name: str, at: Placement, ports: Sequence[Port]) -> core.v1.ServiceSpecArgs:
    """The address that clients use: ready pods only."""
    return core.v1.ServiceSpecArgs(type="ClusterIP", selector=labels.selector(name, at.stack), ports=_service_ports(ports))


def headless(name: str, at: Placement, ports: Sequence[Port]) -> core.v1.ServiceSpecArgs:
    """The names of the single pods. They exist before a pod is ready, because servers that form a cluster must find each other first."""
    return core.v1.ServiceSpecArgs(
        cluster_ip="None", publish_not_ready_addresses=True, selector=labels.selector(name, at.stack), ports=_service_ports(ports)
    )


def pod_host(name: str, at: Placement, ordinal: int) -> str:
    """The name of one pod of a StatefulSet, which stands in its certificate."""
    return f"{name}-{ordinal}.{name}-headless.{at.namespace}.svc"


def claim_spec(at: Placement, storage_gib: int) -> core.v1.PersistentVolumeClaimSpecArgs:
    """A volume of its own for a pod."""
    return core.v1.PersistentVolumeClaimSpecArgs(
        access_modes=["ReadWriteOnce"],
        storage_class_name=at.storage_class,
        resources=core.v1.VolumeResourceRequirementsArgs(requests={"storage": f"{storage_gib}Gi"}),
    )


def claims(name: str, at: Placement, storage_gib: int, replicas: int) -> dict[str, core.v1.PersistentVolumeClaimInitArgs]:
    """The claim of each pod by its name, which is the one that the StatefulSet looks for.

    They are objects of their own because a StatefulSet's templates cannot be changed: a claim can grow, and outlives its StatefulSet.
    """
    return {
        f"data-{name}-{ordinal}": core.v1.PersistentVolumeClaimInitArgs(
            metadata=labels.metadata(f"data-{name}-{ordinal}", name, at, annotations=UNAWAITED), spec=claim_spec(at, storage_gib)
        )
        for ordinal in range(replicas)
    }


def data_mount(path: str) -> core.v1.VolumeMountArgs:
    """The pod's claim in its container."""
    return core.v1.VolumeMountArgs(name="data", mount_path=path)


def stateful_set(
    name: str, at: Placement, *, template: core.v1.PodTemplateSpecArgs, storage_gib: int, replicas: int = 1
) -> apps.v1.StatefulSetSpecArgs:
    """A StatefulSet whose pods take the claims of `claims`, and leave them behind."""
    return apps.v1.StatefulSetSpecArgs(
        service_name=f"{name}-headless",
        replicas=replicas,
        revision_history_limit=3,
        # OrderedReady never replaces a pod that a bad template keeps from being ready, not even by a good one:
        # https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback
        pod_management_policy="Parallel",
        selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(name, at.stack)),
        template=template,
        volume_claim_templates=[core.v1.PersistentVolumeClaimArgs(metadata=meta.v1.ObjectMetaArgs(name="data"), spec=claim_spec(at, storage_gib))],
        persistent_volume_claim_retention_policy=apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicyArgs(
            when_deleted="Retain", when_scaled="Retain"
        ),
    )
