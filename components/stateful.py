"""What the stateful engines have in common: their two Services, the StatefulSet and its volumes, and where certificates lie in a pod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import apps, core, meta

from components import labels, workload
from components.contracts import Placement, Protocol, ServerTls
from components.workload import Mount

TLS = "/run/groundwork/tls"
CA = "/run/groundwork/ca"


@dataclass(frozen=True)
class Port:
    """A port of an engine, the same in the container and in its Services. `app_protocol` is what a mesh takes it for."""

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


def claim(at: Placement, storage_gib: int) -> core.v1.PersistentVolumeClaimArgs:
    """A volume of its own for each pod."""
    return core.v1.PersistentVolumeClaimArgs(
        metadata=meta.v1.ObjectMetaArgs(name="data"),
        spec=core.v1.PersistentVolumeClaimSpecArgs(
            access_modes=["ReadWriteOnce"],
            storage_class_name=at.storage_class,
            resources=core.v1.VolumeResourceRequirementsArgs(requests={"storage": f"{storage_gib}Gi"}),
        ),
    )


def data_mount(path: str) -> core.v1.VolumeMountArgs:
    """The pod's claim in its container."""
    return core.v1.VolumeMountArgs(name="data", mount_path=path)


def stateful_set(
    name: str, at: Placement, *, template: core.v1.PodTemplateSpecArgs, storage_gib: int, retain_data: bool, replicas: int = 1
) -> apps.v1.StatefulSetSpecArgs:
    """A StatefulSet with one claim for each pod. Its claims are deleted with it unless `retain_data`."""
    return apps.v1.StatefulSetSpecArgs(
        service_name=f"{name}-headless",
        replicas=replicas,
        revision_history_limit=3,
        # OrderedReady never replaces a pod that a bad template keeps from being ready, not even by a good one:
        # https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback
        pod_management_policy="Parallel",
        selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(name, at.stack)),
        template=template,
        volume_claim_templates=[claim(at, storage_gib)],
        persistent_volume_claim_retention_policy=apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicyArgs(
            when_deleted="Retain" if retain_data else "Delete",
            when_scaled="Retain",  # a smaller cluster may grow again
        ),
    )


def host(service_name: pulumi.Input[str], at: Placement) -> pulumi.Output[str]:
    """The name by which pods of the cluster reach a Service, and which its certificate carries."""
    return pulumi.Output.format("{0}.{1}.svc", service_name, at.namespace)


def check_storage(engine: str, storage_gib: int) -> None:
    """Raises ValueError for a volume that cannot be."""
    if storage_gib < 1:
        raise ValueError(f"{engine}.storage_gib is {storage_gib}: give the volume at least 1 GiB")
