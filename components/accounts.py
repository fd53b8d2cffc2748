"""Accounts in the engines: a credential for each client, and the Job that makes the engine agree with what is declared.

An engine reads an initial password only on an empty volume, so its roles, databases, virtual hosts, users and policies are applied by a
Job whose name carries a digest of what it applies: a change makes a new Job, and what depends on it waits for it. The same pod runs as a
CronJob, so that an engine that lost its volume gets its accounts back within ten minutes. The program is `python -m app.accounts`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_kubernetes import Provider, batch, core, meta

from components import labels, workload
from components.contracts import Credentials, Placement
from components.stateful import CA
from components.workload import Demand, Resources

DIR = "/run/groundwork/accounts"
STATE_FILE = "accounts.json"
ADMIN_FILE = "admin"
UID = 10001  # of the runtime image, as in components/service.py
RESOURCES = Resources(cpu_m=20, memory_mib=128, cpu_limit_m=500, scratch_mib=16)
DEADLINE_SECONDS = 300
WAIT_SECONDS = 120  # how long one attempt waits for the engine; below the deadline, so that the reason reaches the log
# Accounts that the engines have themselves, and the engines: a client's Secret is `<client>-<engine>`, an engine's own `<engine>-...`.
RESERVED = frozenset({"admin", "agent", "probe", "default", "guest", "postgres", "redis", "rabbitmq", "consul"})

# A Job that failed for good never runs again: the next `up` replaces it, though its content is the same (pulumi-kubernetes' own annotation).
RETRIED = {"pulumi.com/replaceUnready": "true"}

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_clients(engine: str, names: Sequence[str]) -> None:
    """Raises ValueError for client names that cannot be accounts: bad, taken or not unique."""
    for name, count in Counter(names).items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{engine}.clients: {name!r} cannot be a name: use at most 63 of a-z, 0-9 and -, as in a Kubernetes name")
        if name in RESERVED:
            raise ValueError(f"{engine}.clients: the name {name} is taken by the engine itself: choose another one")
        if count > 1:
            raise ValueError(f"{engine}.clients: {name} is there {count} times, but each client has a credential of its own: keep one")


def check_rotation(engine: str, rotation: int) -> None:
    """Raises ValueError for a rotation that cannot be counted up."""
    if rotation < 1:
        raise ValueError(f"{engine}.rotation is {rotation}: start at 1 and add 1 for each rotation")


@dataclass(frozen=True)
class Issued:
    """The clients' credentials: what their pods mount, and the secret values for the engine's own configuration."""

    credentials: dict[str, Credentials]
    secrets: dict[str, pulumi.Output[str]]


def secret_value(name: str, *, parent: pulumi.Resource, rotation: int | None = None) -> pulumi.Output[str]:
    """A random secret of 40 letters and digits; without `rotation` it is made once.

    Everything secret begins here: the ids of RandomUuid and its like are their values, and ids stand in clear in state and previews.
    """
    keepers = None if rotation is None else {"rotation": str(rotation)}
    return random.RandomPassword(name, length=40, special=False, keepers=keepers, opts=pulumi.ResourceOptions(parent=parent)).result


def passwords(engine: str, clients: Sequence[str], *, at: Placement, rotation: int, parent: pulumi.Resource, provider: Provider) -> Issued:
    """A password for each client, new with each `rotation`, in a Secret `<client>-<engine>` with `username` and `password`."""
    issued = Issued({}, {})
    for client in clients:
        name = f"{client}-{engine}"
        password = secret_value(name, parent=parent, rotation=rotation)
        secret = core.v1.Secret(
            name,
            metadata=labels.metadata(name, engine, at),
            string_data={"username": client, "password": password},
            opts=pulumi.ResourceOptions(parent=parent, provider=provider),
        )
        issued.secrets[client] = password
        issued.credentials[client] = Credentials(secret=secret.metadata.name.apply(str), digest=workload.digest(client, password))
    return issued


def container(program: str, image: pulumi.Input[str], mounts: Sequence[workload.Mount]) -> core.v1.ContainerArgs:
    """Applies the accounts of one engine and ends."""
    return core.v1.ContainerArgs(
        name="accounts",
        image=image,
        args=["-m", "app.accounts", program],
        env=[core.v1.EnvVarArgs(name="ACCOUNTS_WAIT_SECONDS", value=str(WAIT_SECONDS))],
        resources=RESOURCES.requirements(),
        security_context=workload.container_security(),
        volume_mounts=workload.volume_mounts(mounts),
        termination_message_policy="FallbackToLogsOnError",  # the reason stands in `kubectl describe pod`
    )


def template(name: str, program: str, at: Placement, *, image: pulumi.Input[str], ca: pulumi.Input[str]) -> core.v1.PodTemplateSpecArgs:
    """The pod that Job and CronJob share. `name` is its workload's name, by which network policies pick it."""
    mounts = [
        workload.from_secret("accounts", DIR, name),
        workload.from_config_map("ca", CA, ca),
        workload.scratch("tmp", "/tmp", RESOURCES.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    return workload.pod(
        name, at, container=container(program, image, mounts), uid=UID, gid=UID, mounts=mounts, grace_seconds=10, restart_policy="Never"
    )


def job(pod: core.v1.PodTemplateSpecArgs) -> batch.v1.JobSpecArgs:
    """Runs once for each content. It is kept when it is done: one that removed itself would look like a change."""
    return batch.v1.JobSpecArgs(backoff_limit=3, active_deadline_seconds=DEADLINE_SECONDS, template=pod)


def cron_job(pod: core.v1.PodTemplateSpecArgs, minute: int) -> batch.v1.CronJobSpecArgs:
    """The same every ten minutes from `minute` on, never twice at a time. A start that was missed by five minutes is left out."""
    return batch.v1.CronJobSpecArgs(
        schedule=f"{minute}-59/10 * * * *",
        concurrency_policy="Forbid",
        starting_deadline_seconds=300,
        successful_jobs_history_limit=1,
        failed_jobs_history_limit=1,
        job_template=batch.v1.JobTemplateSpecArgs(
            metadata=meta.v1.ObjectMetaArgs(labels=pod_labels(pod)),
            spec=batch.v1.JobSpecArgs(backoff_limit=1, active_deadline_seconds=DEADLINE_SECONDS, template=pod),
        ),
    )


def pod_labels(pod: core.v1.PodTemplateSpecArgs) -> pulumi.Input[Mapping[str, pulumi.Input[str]]] | None:
    """The labels of a pod template, for the Jobs that a CronJob makes."""
    metadata = pod.metadata
    return metadata.labels if isinstance(metadata, meta.v1.ObjectMetaArgs) else None


def demand() -> Demand:
    """A Job and a run of the CronJob at the same time."""
    return Demand.of(RESOURCES, 2)


@dataclass(frozen=True)
class AccountsArgs:
    """What one engine's accounts need: the program's name, the state as JSON, the administrator's secret and the CA's ConfigMap."""

    at: Placement
    program: str
    image: pulumi.Input[str]
    ca: pulumi.Input[str]
    state: pulumi.Input[str]
    admin: pulumi.Input[str]
    minute: int


def apply(engine: str, args: AccountsArgs, *, parent: pulumi.Resource, provider: Provider, depends_on: Sequence[pulumi.Resource]) -> batch.v1.Job:
    """Registers the Secret, the Job and the CronJob; what needs the accounts depends on the returned Job."""
    name = f"{engine}-accounts"
    child = pulumi.ResourceOptions(parent=parent, provider=provider)
    secret = core.v1.Secret(
        name, metadata=labels.metadata(name, name, args.at), string_data={STATE_FILE: args.state, ADMIN_FILE: args.admin}, opts=child
    )
    pod = template(name, args.program, args.at, image=args.image, ca=args.ca)
    # Named by content: the new Job runs to its end before the old one goes.
    job_name = pulumi.Output.concat(f"{name}-", workload.digest(args.state, args.image))
    after = pulumi.ResourceOptions(parent=parent, provider=provider, depends_on=[secret, *depends_on])
    done = batch.v1.Job(
        name,
        metadata=meta.v1.ObjectMetaArgs(name=job_name, namespace=args.at.namespace, labels=labels.labels(name, args.at.stack), annotations=RETRIED),
        spec=job(pod),
        opts=after,
    )
    batch.v1.CronJob(
        name,
        metadata=labels.metadata(name, name, args.at),
        spec=cron_job(pod, args.minute),
        opts=pulumi.ResourceOptions(parent=parent, provider=provider, depends_on=[done]),
    )
    return done
