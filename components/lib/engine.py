"""A stateful engine, assembled in one place: what an engine's own file says in a `Spec` becomes the objects that every engine has.

They are: the claims, a Secret with what opens them, plain configuration, two Services, a StatefulSet, and for each client a credential
and an account in the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_random as random
from pulumi_kubernetes import Provider, apps, core, policy

from components.lib import accounts, labels, options, stateful, workload
from components.lib.accounts import Accounts
from components.lib.contracts import Credentials, Edge, Endpoint, Placement, ServerTls, Transport, Use
from components.lib.description import Demand, Description, PodShape
from components.lib.problems import Problem
from components.lib.stateful import Port
from components.lib.workload import Resources

MOUNT = "/run/groundwork"  # where a service finds its settings and credentials

Values = Mapping[str, pulumi.Input[str]]


@dataclass(frozen=True)
class Found:
    """What the cluster already has of an engine: the secrets that its volumes know, and the account Jobs that succeeded, with their image."""

    secrets: Values = field(default_factory=dict[str, pulumi.Input[str]])
    jobs: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class EngineArgs:
    """What every engine needs to know.

    `storage_gib` may grow, on a storage class that can expand. `rotation` + 1 gives every client another credential. With `retain_data` a
    destroy leaves the volumes, and what opens them.
    """

    at: Placement
    image: str
    accounts_image: pulumi.Input[str]
    tls: ServerTls
    resources: Resources
    storage_gib: int = 1
    rotation: int = 1
    retain_data: bool = False
    found: Found = Found()

    def bad(self, engine: str, clients: Sequence[str], *, memory_mib: int) -> Iterator[Problem]:
        """What no engine can do; `memory_mib` is the least that this one runs with."""
        yield from accounts.bad_clients(engine, clients)
        if not 1 <= self.rotation <= accounts.MAX_ROTATION:
            yield Problem(f"{engine}.rotation", f"start at 1 and add 1 for each rotation, up to {accounts.MAX_ROTATION}", self.rotation)
        if not 1 <= self.storage_gib <= stateful.MAX_STORAGE_GIB:
            yield Problem(f"{engine}.storage_gib", f"give the volume 1 to {stateful.MAX_STORAGE_GIB} GiB", self.storage_gib)
        if self.resources.memory_mib < memory_mib:
            yield Problem(f"{engine}.resources.memory_mib", f"{engine} needs at least {memory_mib}", self.resources.memory_mib)


@dataclass(frozen=True)
class Spec:
    """What is particular to one engine.

    `offered` are the ports of the Service that clients use, `ports` all of a pod's. `own_secrets` are generated once and known to the
    volume; `private` makes files of them, which lie beside them in the Secret `<name>-secrets`. `config` are the plain files of the
    ConfigMap `<name>-config`. `pod` takes the digest that rolls it. `desired` is what its accounts program reads of it beyond what all
    engines have, from the own secrets and the clients' ones. `credential` is the content of a client's Secret.
    """

    type: str
    ports: tuple[Port, ...]
    offered: tuple[Port, ...]
    config: Mapping[str, str]
    own_secrets: tuple[str, ...]
    private: Callable[[Mapping[str, str]], Mapping[str, str]]
    admin: Callable[[Mapping[str, str]], str]
    pod: Callable[[pulumi.Input[str]], core.v1.PodTemplateSpecArgs]
    clients: tuple[str, ...]
    credential: Callable[[str, str], Mapping[str, str]]
    desired: Callable[[Mapping[str, str], Mapping[str, str]], Mapping[str, object]]
    minute: int
    servers: int = 1
    among: tuple[Edge, ...] = ()


def describe(name: str, args: EngineArgs, spec: Spec, *, init_containers: int = 0) -> Description:
    """The server's pods and volumes, and the Jobs of its accounts, which call it."""
    server, jobs = args.at.workload(name), args.at.workload(accounts.workload_name(name))
    pods = PodShape((args.resources,), spec.servers, (args.resources,) * init_containers, claims=spec.servers, claim_gib=args.storage_gib)
    calls = tuple(Edge(jobs, server, port.number, Transport.OWN_TLS) for port in spec.offered)
    return Description((server, jobs), (*calls, *spec.among), Demand((pods,)) + accounts.demand())


def credentials(engine: str, client: str, *files: str) -> Credentials:
    """The Secret of one client of one engine."""
    return Credentials(f"{client}-{engine}", files or ("username", "password"))


def use(kind: str, args: EngineArgs, client: str, port: int, *, required: bool, **own: str | int) -> Use:
    """A service's use of the engine `kind`, by user name and password."""
    endpoint = Endpoint(args.at.host(kind), port, args.tls.ca)
    settings = {"host": endpoint.host, "port": port, "ca": f"{MOUNT}/ca.crt", "credentials": f"{MOUNT}/{kind}", **own}
    return Use(kind, args.at.workload(kind), endpoint, credentials(kind, client), settings, required)


def secret_value(name: str, *, parent: pulumi.Resource, rotation: int | None = None) -> pulumi.Output[str]:
    """A random secret of 40 letters and digits; without `rotation` it is made once.

    Everything secret begins here: the ids of RandomUuid and its like are their values, and ids stand in clear in state and previews.
    """
    keepers = None if rotation is None else {"rotation": str(rotation)}
    return random.RandomPassword(name, length=40, special=False, keepers=keepers, opts=pulumi.ResourceOptions(parent=parent)).result


def own_secret(name: str, found: pulumi.Input[str] | None, *, parent: pulumi.Resource) -> pulumi.Output[str]:
    """What a volume knows: the value that the cluster still has, or a new one.

    The generator is registered in both cases, so that its settings may change, or its state be lost, without locking anybody out.
    """
    generated = secret_value(name, parent=parent)
    return generated if found is None else pulumi.Output.secret(found)


class Engine(pulumi.ComponentResource):
    """A server that keeps data.

    Outputs: `endpoint`; `digests`, of each client's credential by name; `accounts`, for the Job that retires old ones; `ready`, which
    clients must depend on: their accounts and credentials exist then.
    """

    endpoint: Endpoint
    digests: dict[str, pulumi.Output[str]]
    accounts: Accounts
    ready: tuple[pulumi.Resource, ...]

    def __init__(self, name: str, args: EngineArgs, spec: Spec, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(spec.type, name, None, opts)
        child = options.children(self, provider)
        at = args.at
        generated = {key: own_secret(f"{name}-{key}", args.found.secrets.get(key), parent=self) for key in spec.own_secrets}
        values = {client: secret_value(f"{client}-{name}", parent=self, rotation=args.rotation) for client in spec.clients}
        own, clients = pulumi.Output.all(**generated), pulumi.Output.all(**values)

        secrets = core.v1.Secret(
            f"{name}-secrets",
            metadata=labels.metadata(f"{name}-secrets", name, at, more={labels.KEEP: "true"}),
            string_data=pulumi.Output.secret(own.apply(lambda known: {**known, **spec.private(known)})),
            opts=child(retain=args.retain_data),
        )
        config = core.v1.ConfigMap(f"{name}-config", metadata=labels.metadata(f"{name}-config", name, at), data=dict(spec.config), opts=child())
        claims = [
            # The class of a volume cannot change; to name the one that it has would replace it, and delete what is in it.
            core.v1.PersistentVolumeClaim(claim, claim_args, opts=child(retain=args.retain_data, ignore_changes=["spec.storageClassName"]))
            for claim, claim_args in stateful.claims(name, at, args.storage_gib, spec.servers).items()
        ]
        runs_as = [service_account(workload_name, at, child) for workload_name in (name, accounts.workload_name(name))]
        core.v1.Service(name, metadata=labels.metadata(name, name, at), spec=stateful.service(name, at, spec.offered), opts=child())
        headless = core.v1.Service(
            f"{name}-headless", metadata=labels.metadata(f"{name}-headless", name, at), spec=stateful.headless(name, at, spec.ports), opts=child()
        )
        content = workload.digest(json.dumps(dict(spec.config), sort_keys=True), own.apply(lambda known: json.dumps(spec.private(known))))
        server = apps.v1.StatefulSet(
            name,
            metadata=labels.metadata(name, name, at),
            spec=stateful.stateful_set(name, at, template=spec.pod(content), storage_gib=args.storage_gib, replicas=spec.servers),
            # Immutable, and only for claims that are not there: ours are.
            opts=child(depends_on=[headless, secrets, config, *claims, *runs_as], ignore_changes=["spec.volumeClaimTemplates"]),
        )
        if spec.servers > 1:
            budget = workload.disruption_budget(name, at.stack)
            policy.v1.PodDisruptionBudget(name, metadata=labels.metadata(name, name, at), spec=budget, opts=child())

        self.accounts = Accounts(
            at=at,
            engine=name,
            image=args.accounts_image,
            ca=args.tls.ca,
            desired=pulumi.Output.all(own, clients, args.tls.fingerprint).apply(
                lambda known: desired(name, args, spec, known[2], spec.desired(known[0], known[1]))
            ),
            admin=own.apply(spec.admin),
            minute=spec.minute,
            done=args.found.jobs,
            owner=self,
        )
        applied = accounts.apply(self.accounts, retire=False, child=child, depends_on=[server])
        self.endpoint = Endpoint(at.host(name), spec.offered[0].number, args.tls.ca)
        self.digests = {}
        issued: list[pulumi.Resource] = []
        for client, value in values.items():
            content_of_client = value.apply(lambda known, client=client: spec.credential(client, known))
            issued.append(
                core.v1.Secret(
                    f"{client}-{name}",
                    metadata=labels.metadata(f"{client}-{name}", name, at),
                    string_data=pulumi.Output.secret(content_of_client),
                    # Pods that run see a changed Secret within a minute: the engine must know what stands in it by then.
                    opts=child(depends_on=[applied]),
                )
            )
            self.digests[client] = workload.digest(client, str(args.rotation), value)
        self.ready = (applied, *issued)
        self.register_outputs({"host": self.endpoint.host, "port": self.endpoint.port})


def service_account(name: str, at: Placement, child: options.Child) -> core.v1.ServiceAccount:
    """Registers the ServiceAccount that the pods of workload `name` run as. Its token is mounted by nobody unasked."""
    return core.v1.ServiceAccount(name, metadata=labels.metadata(name, name, at), automount_service_account_token=False, opts=child())


def desired(name: str, args: EngineArgs, spec: Spec, fingerprint: str, own: Mapping[str, object]) -> Mapping[str, object]:
    """What the accounts program reads: where the engine is, which certificate it ought to show, and who may do what."""
    return {"host": args.at.host(name), "port": spec.offered[0].number, "generation": args.rotation, "certificate": fingerprint, **own}
