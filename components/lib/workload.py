"""Safe pods in one place: security context, scratch space, probes, resources, spread and disruption budget.

The security settings are those of the Pod Security Standard `restricted`:
https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import pulumi
from pulumi_kubernetes import core, meta, policy

from components.lib import labels
from components.lib.contracts import Placement

ZONE = "topology.kubernetes.io/zone"
NODE = "kubernetes.io/hostname"
# The kubelet keeps five files of 10 MiB of each container's log (containerLogMaxSize, containerLogMaxFiles), and one grows beyond.
LOG_MIB = 80


@dataclass(frozen=True)
class Resources:
    """What one container asks for and may use: CPU in millicores, memory and scratch space (/tmp) in MiB.

    Memory is both request and limit, so that a pod is never killed for a neighbour's use. CPU may burst up to `cpu_limit_m`.
    """

    cpu_m: int
    memory_mib: int
    cpu_limit_m: int = 1000
    scratch_mib: int = 64

    def __post_init__(self) -> None:
        if self.cpu_m < 1 or self.memory_mib < 1 or self.scratch_mib < 1:
            raise ValueError(f"resources must be positive, got cpu_m={self.cpu_m} memory_mib={self.memory_mib} scratch_mib={self.scratch_mib}")
        if self.cpu_limit_m < self.cpu_m:
            raise ValueError(f"cpu_limit_m is {self.cpu_limit_m}, below the request cpu_m={self.cpu_m}: raise the limit")

    @property
    def ephemeral_mib(self) -> int:
        """Scratch space and, apart from it, room for what the container writes to its log: a full /tmp evicts nobody for its log."""
        return self.scratch_mib + LOG_MIB

    def requirements(self) -> core.v1.ResourceRequirementsArgs:
        """The same as a container's `resources`."""
        return core.v1.ResourceRequirementsArgs(
            requests={"cpu": f"{self.cpu_m}m", "memory": f"{self.memory_mib}Mi", "ephemeral-storage": f"{self.ephemeral_mib}Mi"},
            limits={"cpu": f"{self.cpu_limit_m}m", "memory": f"{self.memory_mib}Mi", "ephemeral-storage": f"{self.ephemeral_mib}Mi"},
        )


@dataclass(frozen=True)
class Mount:
    """A volume and where the container sees it. Read-only unless said otherwise."""

    volume: core.v1.VolumeArgs
    path: str
    read_only: bool = True
    sub_path: str | None = None


def pod_security(uid: int, gid: int) -> core.v1.PodSecurityContextArgs:
    """A pod that runs as `uid`:`gid`, never as root, under the runtime's seccomp profile, and owns its volumes."""
    return core.v1.PodSecurityContextArgs(
        run_as_non_root=True,
        run_as_user=uid,
        run_as_group=gid,
        fs_group=gid,
        fs_group_change_policy="OnRootMismatch",  # a large volume is not walked at every start
        seccomp_profile=core.v1.SeccompProfileArgs(type="RuntimeDefault"),
    )


def container_security() -> core.v1.SecurityContextArgs:
    """A container with a read-only root, no capability and no way to gain one."""
    return core.v1.SecurityContextArgs(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=core.v1.CapabilitiesArgs(drop=["ALL"]),
    )


def scratch(name: str, path: str, mib: int, *, in_memory: bool = False) -> Mount:
    """An empty, writable folder that dies with the pod. One that is `in_memory` counts against the container's memory."""
    source = core.v1.EmptyDirVolumeSourceArgs(size_limit=f"{mib}Mi", medium="Memory" if in_memory else None)
    volume = core.v1.VolumeArgs(name=name, empty_dir=source)
    return Mount(volume, path, read_only=False)


def from_secret(name: str, path: str, secret: pulumi.Input[str], *, keys: Mapping[str, str] | None = None, mode: int = 0o440) -> Mount:
    """A Secret as files; `keys` picks and renames them. The pod's group reads them (mode 0440)."""
    items = None if keys is None else [core.v1.KeyToPathArgs(key=key, path=file) for key, file in keys.items()]
    return Mount(core.v1.VolumeArgs(name=name, secret=core.v1.SecretVolumeSourceArgs(secret_name=secret, default_mode=mode, items=items)), path)


def from_config_map(name: str, path: str, config_map: pulumi.Input[str]) -> Mount:
    """A ConfigMap as files."""
    return Mount(core.v1.VolumeArgs(name=name, config_map=core.v1.ConfigMapVolumeSourceArgs(name=config_map)), path)


def volumes(mounts: Sequence[Mount]) -> list[core.v1.VolumeArgs]:
    """The pod's side of `mounts`."""
    return [mount.volume for mount in mounts]


def volume_mounts(mounts: Sequence[Mount]) -> list[core.v1.VolumeMountArgs]:
    """The container's side of `mounts`."""
    return [
        core.v1.VolumeMountArgs(name=mount.volume.name, mount_path=mount.path, read_only=mount.read_only, sub_path=mount.sub_path) for mount in mounts
    ]


def exec_probe(command: Sequence[str], *, period: int, timeout: int, failures: int) -> core.v1.ProbeArgs:
    """Asks a command inside the container; times in seconds."""
    return core.v1.ProbeArgs(
        exec_=core.v1.ExecActionArgs(command=list(command)), period_seconds=period, timeout_seconds=timeout, failure_threshold=failures
    )


def tcp_probe(port: int, *, period: int, failures: int) -> core.v1.ProbeArgs:
    """Asks whether the port is open; times in seconds. For liveness: a busy server must not be restarted."""
    return core.v1.ProbeArgs(tcp_socket=core.v1.TCPSocketActionArgs(port=port), period_seconds=period, timeout_seconds=2, failure_threshold=failures)


def http_probe(path: str, port: int, *, period: int, timeout: int, failures: int) -> core.v1.ProbeArgs:
    """Asks a path over plain HTTP; times in seconds."""
    return core.v1.ProbeArgs(
        http_get=core.v1.HTTPGetActionArgs(path=path, port=port),
        period_seconds=period,
        timeout_seconds=timeout,
        failure_threshold=failures,
    )


def pod(
    name: str,
    at: Placement,
    *,
    containers: Sequence[core.v1.ContainerArgs],
    uid: int,
    gid: int,
    mounts: Sequence[Mount],
    content: pulumi.Input[str] | None = None,
    init_containers: Sequence[core.v1.ContainerArgs] = (),
    replicas: int = 1,
    apart: bool = False,
    grace_seconds: int = 30,
    restart_policy: str | None = None,
) -> core.v1.PodTemplateSpecArgs:
    """The pod template of workload `name`, which runs as the ServiceAccount of its name: safe by default, with the volumes of `mounts`.

    `content` is a digest of everything the pod reads once; the pods roll when it changes. The API server's token is never mounted
    unasked: a workload that needs a token projects one. Replicas that are `apart` never share a node.
    """
    return core.v1.PodTemplateSpecArgs(
        metadata=meta.v1.ObjectMetaArgs(
            labels=labels.labels(name, at.stack), annotations=None if content is None else {labels.CONTENT_HASH: content}
        ),
        spec=core.v1.PodSpecArgs(
            service_account_name=name,
            automount_service_account_token=False,
            enable_service_links=False,  # variables like POSTGRES_PORT would be read as settings by the images
            security_context=pod_security(uid, gid),
            image_pull_secrets=[core.v1.LocalObjectReferenceArgs(name=secret) for secret in at.pull_secrets] or None,
            init_containers=list(init_containers) or None,
            containers=list(containers),
            volumes=volumes(mounts),
            topology_spread_constraints=spread(name, at.stack, apart=apart) if replicas > 1 else None,
            termination_grace_period_seconds=grace_seconds,
            restart_policy=restart_policy,
        ),
    )


def spread(name: str, stack: str, *, apart: bool) -> list[core.v1.TopologySpreadConstraintArgs]:
    """Replicas away from each other, over zones and then nodes, as far as the cluster has them; those that are `apart` never on one node."""
    return [
        core.v1.TopologySpreadConstraintArgs(
            topology_key=key,
            max_skew=1,
            when_unsatisfiable="DoNotSchedule" if apart and key == NODE else "ScheduleAnyway",
            label_selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(name, stack)),
        )
        for key in (ZONE, NODE)
    ]


def disruption_budget(name: str, stack: str) -> policy.v1.PodDisruptionBudgetSpecArgs:
    """At most one pod of a replicated workload is taken down on purpose at a time; sick pods never block a drain."""
    return policy.v1.PodDisruptionBudgetSpecArgs(
        max_unavailable=1,
        selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(name, stack)),
        unhealthy_pod_eviction_policy="AlwaysAllow",
    )


def digest(*parts: pulumi.Input[str]) -> pulumi.Output[str]:
    """A short hash of `parts`, for annotations and names. It is no secret even where the parts are: 64 bits of SHA-256 over random values."""

    def combine(known: Sequence[str]) -> str:
        return sha256(json.dumps(list(known)).encode()).hexdigest()[:16]

    return pulumi.Output.unsecret(pulumi.Output.all(*parts).apply(combine))
