"""Accounts in the engines: the Jobs that make an engine agree with what is declared.

An engine reads an initial password only on an empty volume, so its roles, databases, virtual hosts, users and policies are applied by a
Job whose name carries a digest of what it applies: a change makes a new Job, and what depends on it waits for it.

A rotation has two such Jobs, so that nobody is refused on the way: the first one adds the accounts of the new generation, the clients
roll, the second one retires the old ones. A CronJob repeats the first, so that an engine that lost its volume gets its accounts back
within ten minutes. The program is `python -m app.accounts`; the schema of what it reads is app/accounts/desired.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import batch, core, meta

from components.lib import labels, workload
from components.lib.contracts import Placement
from components.lib.description import Demand, PodShape
from components.lib.options import Child
from components.lib.problems import Problem
from components.lib.stateful import CA
from components.lib.workload import Resources

DIR = "/run/groundwork/accounts"
STATE_FILE = "accounts.json"
ADMIN_FILE = "admin"
UID = 10001  # of the runtime image, as in components/service.py
RESOURCES = Resources(cpu_m=20, memory_mib=128, cpu_limit_m=500, scratch_mib=16)
DEADLINE_SECONDS = 300
WAIT_SECONDS = 150  # how long one attempt waits for the engine; below the deadline, so that the reason reaches the log
RESERVED = frozenset({"admin", "agent", "probe", "default", "guest", "postgres"})  # accounts that the engines have themselves

# A Job that failed for good never runs again: the next `up` replaces it, though its content is the same (pulumi-kubernetes' own annotation).
RETRIED = {"pulumi.com/replaceUnready": "true"}

MAX_ROTATION = 9999
# PostgreSQL keeps 63 letters of a role's name and drops the rest: room for the longest login of every generation.
MAX_NAME = 63 - len(f".{MAX_ROTATION}")
_NAME = re.compile(rf"[a-z0-9]([a-z0-9-]{{0,{MAX_NAME - 2}}}[a-z0-9])?")


def bad_clients(engine: str, names: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with client names: those that cannot be accounts, are taken, or are there twice."""
    for name, count in Counter(names).items():
        if not _NAME.fullmatch(name):
            what = f"{name!r} cannot be a name: use at most {MAX_NAME} of a-z, 0-9 and -, as in a Kubernetes name"
            yield Problem(f"{engine}.clients", what, client=name)
        if name in RESERVED or name == engine:  # a client's Secret is `<client>-<engine>`, an engine's own `<engine>-...`
            yield Problem(f"{engine}.clients", f"the name {name} is taken by the engine itself: choose another one", client=name)
        if count > 1:
            what = f"{name} is there {count} times, but each client has a credential of its own: keep one"
            yield Problem(f"{engine}.clients", what, client=name)


def login(client: str, generation: int) -> str:
    """The account of one generation. A client's name has no dot, so no two clients' accounts can be called alike."""
    return f"{client}.{generation}"


def credential(generation: int) -> Callable[[str, str], Mapping[str, str]]:
    """What a client that logs in by name and password finds in its Secret, from its name and the password."""
    return lambda client, password: {"username": login(client, generation), "password": password}


def entries(generation: int, passwords: Mapping[str, str], own: Mapping[str, Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The clients of accounts.json that log in by name and password, in order of their names; `own` is what an engine says of each besides."""
    return [{"name": name, "login": login(name, generation), "password": passwords[name], **own[name]} for name in sorted(own)]


def workload_name(engine: str) -> str:
    """The workload that applies the accounts of `engine`: what its pods, its ServiceAccount and its policy are called."""
    return f"{engine}-accounts"


@dataclass(frozen=True)
class Accounts:
    """The accounts of one engine as its Jobs apply them.

    `desired` is the state as far as the two Jobs agree on it, `admin` the administrator's secret. `done` are the Jobs that the cluster has
    already seen succeed, with the image that they ran: they are not run again for a new image alone.
    """

    at: Placement
    engine: str
    image: pulumi.Input[str]
    ca: str
    desired: pulumi.Output[Mapping[str, object]]
    admin: pulumi.Input[str]
    minute: int
    done: Mapping[str, str] = field(default_factory=dict[str, str])
    owner: pulumi.Resource | None = None

    def state(self, *, retire: bool) -> pulumi.Output[str]:
        """accounts.json of the first Job, or of the one that retires what is old."""
        return self.desired.apply(lambda desired: json.dumps({**desired, "retire": retire}, sort_keys=True))


def container(engine: str, image: pulumi.Input[str], mounts: Sequence[workload.Mount]) -> core.v1.ContainerArgs:
    """Applies the accounts of one engine and ends."""
    return core.v1.ContainerArgs(
        name="accounts",
        image=image,
        args=["-m", "app.accounts", engine],
        env=[core.v1.EnvVarArgs(name="ACCOUNTS_WAIT_SECONDS", value=str(WAIT_SECONDS))],
        resources=RESOURCES.requirements(),
        security_context=workload.container_security(),
        volume_mounts=workload.volume_mounts(mounts),
        termination_message_policy="FallbackToLogsOnError",  # the reason stands in `kubectl describe pod`
    )


def template(accounts: Accounts, secret: str, image: pulumi.Input[str]) -> core.v1.PodTemplateSpecArgs:
    """The pod of a Job. It mounts the state that lies in `secret`."""
    name = workload_name(accounts.engine)
    mounts = [
        workload.from_secret("accounts", DIR, secret),
        workload.from_config_map("ca", CA, accounts.ca),
        workload.scratch("tmp", "/tmp", RESOURCES.scratch_mib),  # noqa: S108 a mount, not a file
    ]
    return workload.pod(
        name,
        accounts.at,
        containers=[container(accounts.engine, image, mounts)],
        uid=UID,
        gid=UID,
        mounts=mounts,
        grace_seconds=10,
        restart_policy="Never",
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
    """A Job, a run of the CronJob, and one more of either that is on its way out."""
    return Demand((PodShape((RESOURCES,), pods=3),))


def apply(accounts: Accounts, *, retire: bool, child: Child, depends_on: Sequence[pulumi.Resource]) -> batch.v1.Job:
    """Registers a Job and the Secret that it mounts; what needs the accounts depends on the returned Job."""
    name = workload_name(accounts.engine)
    secret_name = f"{name}-retire" if retire else name
    state = accounts.state(retire=retire)
    secret = core.v1.Secret(
        secret_name,
        metadata=labels.metadata(secret_name, name, accounts.at),
        string_data={STATE_FILE: state, ADMIN_FILE: accounts.admin},
        opts=child(),
    )
    # Named by content: the new Job runs to its end before the old one goes.
    job_name = pulumi.Output.concat(f"{name}-", workload.digest(state))
    image = pulumi.Output.all(job_name, accounts.image).apply(lambda known: accounts.done.get(known[0], known[1]))
    return batch.v1.Job(
        secret_name,
        metadata=labels.metadata(job_name, name, accounts.at, annotations=RETRIED),
        spec=job(template(accounts, secret_name, image)),
        opts=child(depends_on=[secret, *depends_on]),
    )
