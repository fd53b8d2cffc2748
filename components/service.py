"""One microservice on the platform: a Deployment that finds its settings and secrets as files, and the Service in front of it.

Everything lies in one folder, `/run/groundwork/`: `settings.json` (nothing secret; the schema is groundwork/settings.py), `ca.crt`, a folder
with `username` and `password` for each engine it uses, `consul/token`, and `token`, which proves to other services who it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import Provider, apps, core, meta, policy

from components.lib import engine, labels, options, workload
from components.lib.contracts import Edge, Endpoint, Placement, Transport, Use, Workload
from components.lib.description import Demand, Description, PodShape
from components.lib.problems import Problem, refuse
from components.lib.workload import Mount, Resources

UID = 10001
HTTP_PORT = 8000
METRICS_PORT = 9000
ROOT = engine.MOUNT
AUDIENCE = "groundwork"  # of the ServiceAccount token that services show each other
TOKEN_SECONDS = 3600  # the kubelet renews a projected token at 80 % of its life
# Ready goes away first, then the drain, requests in flight and closing: 5 + 25 + 5 seconds, and some air.
GRACE_SECONDS = 40
UNENCRYPTED = "HTTP between services, both ends fenced by NetworkPolicies, until the stack has a mesh"


@dataclass(frozen=True)
class Call:
    """Another HTTP service that this one calls."""

    server: Workload
    port: int = HTTP_PORT

    def edge(self, client: Workload) -> Edge:
        """The connection that `client` makes: it is ready without the other one."""
        return Edge(client, self.server, self.port, Transport.PLAIN, UNENCRYPTED, required=False)


@dataclass(frozen=True)
class Issuer:
    """An issuer whose tokens the service accepts. `in_cluster`: its keys come from the API server, which wants a token itself.

    `namespaces` are those whose ServiceAccounts own the service of their name; `operator` is the subject that has `operator_scopes` besides.
    """

    issuer: str
    jwks_url: str
    audience: str = AUDIENCE
    scopes: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    operator: str | None = None
    operator_scopes: tuple[str, ...] = ()
    in_cluster: bool = True


@dataclass(frozen=True)
class ServiceArgs:
    """A microservice. `command` are the arguments of the image's Python; `ca` the ConfigMap with the stack's CA.

    `rolled_by` are digests of what the pods read once from what they mount: a change rolls them.
    """

    at: Placement
    image: pulumi.Input[str]
    command: tuple[str, ...]
    profile: str
    ca: str
    replicas: int = 1
    resources: Resources = field(default_factory=lambda: Resources(cpu_m=50, memory_mib=160))
    uses: tuple[Use, ...] = ()
    calls: tuple[Call, ...] = ()
    registry_url: str | None = None
    issuers: tuple[Issuer, ...] = ()
    version: str | None = None
    port: int = HTTP_PORT
    rolled_by: tuple[pulumi.Input[str], ...] = ()

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem]:
        if self.replicas < 1:
            yield Problem("replicas", "a service needs at least 1; remove its entry to stop it", self.replicas)
        if not self.command:
            yield Problem("command", "is empty: name the module to run, such as [-m, demo.user_service]")
        if not 1024 <= self.port <= 65535:
            yield Problem("port", "use 1024 to 65535, which need no privilege", self.port)
        if self.port == METRICS_PORT:
            yield Problem("port", f"every service offers its metrics there: choose another one, such as {HTTP_PORT}", self.port)


def describe(name: str, args: ServiceArgs) -> Description:
    """Its pods, and who they call. In a rolling update each new pod may meet an old one that is still finishing its requests."""
    client = args.at.workload(name)
    edges = (*(use.edge(client) for use in args.uses), *(call.edge(client) for call in args.calls))
    return Description((client,), edges, Demand((PodShape((args.resources,), pods=2 * args.replicas),)))


def issuer_settings(issuer: Issuer) -> dict[str, object]:
    """One issuer's entry of settings.json."""
    subject_scopes = {} if issuer.operator is None else {issuer.operator: list(issuer.operator_scopes)}
    return {
        "issuer": issuer.issuer,
        "jwks_url": issuer.jwks_url,
        "audience": issuer.audience,
        "scopes": list(issuer.scopes),
        "namespaces": list(issuer.namespaces),
        "subject_scopes": subject_scopes,
        "jwks_ca": f"{ROOT}/cluster/ca.crt" if issuer.in_cluster else None,
        "jwks_token_file": f"{ROOT}/cluster/token" if issuer.in_cluster else None,
    }


def settings(name: str, args: ServiceArgs) -> Mapping[str, object]:
    """settings.json of service `name`. Nothing in it is secret."""
    sections: dict[str, object] = {use.kind: {**use.settings, "required": use.required} for use in args.uses}
    if args.registry_url is not None:
        sections["registry"] = {"url": args.registry_url, "token_file": f"{ROOT}/token"}
    return {
        "service": name,
        "profile": args.profile,
        "http_port": args.port,
        "metrics_port": METRICS_PORT,
        **({} if args.version is None else {"version": args.version}),
        "auth": {"issuers": [issuer_settings(issuer) for issuer in args.issuers]},
        **sections,
    }


def secret_files(use: Use) -> list[core.v1.KeyToPathArgs]:
    """The files of one credential, in a folder of their own."""
    return [core.v1.KeyToPathArgs(key=file, path=f"{use.kind}/{file}") for file in use.credentials.files]


def settings_name(name: str) -> str:
    """The ConfigMap with the settings of service `name`."""
    return f"{name}-settings"


def projected(name: str, args: ServiceArgs) -> Mount:
    """`/run/groundwork`: settings, CA, credentials and tokens as one read-only tree that the kubelet swaps whole."""
    sources = [
        core.v1.VolumeProjectionArgs(config_map=core.v1.ConfigMapProjectionArgs(name=settings_name(name))),
        core.v1.VolumeProjectionArgs(
            config_map=core.v1.ConfigMapProjectionArgs(name=args.ca, items=[core.v1.KeyToPathArgs(key="ca.crt", path="ca.crt")])
        ),
        core.v1.VolumeProjectionArgs(
            service_account_token=core.v1.ServiceAccountTokenProjectionArgs(audience=AUDIENCE, expiration_seconds=TOKEN_SECONDS, path="token")
        ),
        *(
            core.v1.VolumeProjectionArgs(secret=core.v1.SecretProjectionArgs(name=use.credentials.secret, items=secret_files(use)))
            for use in args.uses
        ),
    ]
    if any(issuer.in_cluster for issuer in args.issuers):
        sources += [
            # Without an audience the token is for the API server, which serves the key set to ServiceAccounts only.
            core.v1.VolumeProjectionArgs(
                service_account_token=core.v1.ServiceAccountTokenProjectionArgs(expiration_seconds=TOKEN_SECONDS, path="cluster/token")
            ),
            core.v1.VolumeProjectionArgs(
                config_map=core.v1.ConfigMapProjectionArgs(
                    name="kube-root-ca.crt", items=[core.v1.KeyToPathArgs(key="ca.crt", path="cluster/ca.crt")]
                )
            ),
        ]
    volume = core.v1.VolumeArgs(name="groundwork", projected=core.v1.ProjectedVolumeSourceArgs(sources=sources, default_mode=0o440))
    return Mount(volume, ROOT)


def from_field(name: str, path: str) -> core.v1.EnvVarArgs:
    """A variable that the kubelet fills in from the pod."""
    return core.v1.EnvVarArgs(
        name=name, value_from=core.v1.EnvVarSourceArgs(field_ref=core.v1.ObjectFieldSelectorArgs(field_path=path, api_version="v1"))
    )


def container(name: str, args: ServiceArgs, mounts: list[Mount]) -> core.v1.ContainerArgs:
    """The service's container. Alive asks the process alone, ready asks what the service cannot work without."""
    return core.v1.ContainerArgs(
        name=name,
        image=args.image,
        args=list(args.command),
        env=[from_field("PLATFORM_INSTANCE_ID", "metadata.name"), from_field("PLATFORM_ADDRESS", "status.podIP")],
        ports=[
            core.v1.ContainerPortArgs(name="http", container_port=args.port),
            core.v1.ContainerPortArgs(name="metrics", container_port=METRICS_PORT),
        ],
        startup_probe=workload.http_probe("/health/started", args.port, period=2, timeout=2, failures=30),
        readiness_probe=workload.http_probe("/health/ready", args.port, period=5, timeout=2, failures=2),
        liveness_probe=workload.http_probe("/health/live", args.port, period=10, timeout=2, failures=3),
        resources=args.resources.requirements(),
        security_context=workload.container_security(),
        volume_mounts=workload.volume_mounts(mounts),
    )


def deployment(name: str, args: ServiceArgs, content: pulumi.Input[str]) -> apps.v1.DeploymentSpecArgs:
    """A rolling update never takes a ready pod away before its successor is ready."""
    mounts = [projected(name, args), workload.scratch("tmp", "/tmp", args.resources.scratch_mib)]  # noqa: S108 a mount, not a file
    return apps.v1.DeploymentSpecArgs(
        replicas=args.replicas,
        revision_history_limit=3,
        progress_deadline_seconds=180,
        selector=meta.v1.LabelSelectorArgs(match_labels=labels.selector(name, args.at.stack)),
        strategy=apps.v1.DeploymentStrategyArgs(
            type="RollingUpdate", rolling_update=apps.v1.RollingUpdateDeploymentArgs(max_surge=1, max_unavailable=0)
        ),
        template=workload.pod(
            name,
            args.at,
            containers=[container(name, args, mounts)],
            uid=UID,
            gid=UID,
            mounts=mounts,
            content=content,
            replicas=args.replicas,
            grace_seconds=GRACE_SECONDS,
        ),
    )


def front(name: str, args: ServiceArgs) -> core.v1.ServiceSpecArgs:
    """The stable name and address of the service."""
    return core.v1.ServiceSpecArgs(
        selector=labels.selector(name, args.at.stack),
        ports=[core.v1.ServicePortArgs(name="http", port=args.port, target_port="http", app_protocol="http")],
    )


class Service(pulumi.ComponentResource):
    """A microservice. Output: `endpoint`, as callers in the cluster reach it."""

    endpoint: Endpoint

    def __init__(self, name: str, args: ServiceArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:app:Service", name, None, opts)
        child = options.children(self, provider)
        at = args.at
        rendered = json.dumps(settings(name, args), sort_keys=True, indent=1)
        config_map = core.v1.ConfigMap(name, metadata=labels.metadata(settings_name(name), name, at), data={"settings.json": rendered}, opts=child())
        account = engine.service_account(name, at, child)
        core.v1.Service(name, metadata=labels.metadata(name, name, at), spec=front(name, args), opts=child())
        apps.v1.Deployment(
            name,
            metadata=labels.metadata(name, name, at),
            spec=deployment(name, args, workload.digest(rendered, *args.rolled_by)),
            opts=child(depends_on=[config_map, account]),
        )
        if args.replicas > 1:
            budget = workload.disruption_budget(name, at.stack)
            policy.v1.PodDisruptionBudget(name, metadata=labels.metadata(name, name, at), spec=budget, opts=child())
        self.endpoint = Endpoint(at.host(name), args.port, None)
        self.register_outputs({"url": f"http://{self.endpoint.host}:{args.port}"})
