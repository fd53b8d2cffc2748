"""One microservice on the platform: a Deployment that finds its settings and secrets as files, and the Service in front of it.

Everything lies in one folder, `/run/groundwork/`: `settings.json` (nothing secret; the schema is groundwork/settings.py), `ca.crt`, a folder
with `username` and `password` for each engine it uses, `consul/token`, and `token`, which proves to other services who it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import Provider, apps, core, meta, policy

from components import labels, workload
from components.contracts import Credentials, Endpoint, Placement
from components.workload import Demand, Mount, Resources

UID = 10001
HTTP_PORT = 8000
METRICS_PORT = 9000
ROOT = "/run/groundwork"
AUDIENCE = "groundwork"  # of the ServiceAccount token that services show each other
TOKEN_SECONDS = 3600  # the kubelet renews a projected token at 80 % of its life
# Ready goes away first, then the drain, requests in flight and closing: 5 + 25 + 5 seconds, and some air.
GRACE_SECONDS = 40


@dataclass(frozen=True)
class PostgresUse:
    """The service's database. `required` False: the service is ready without it."""

    endpoint: Endpoint
    credentials: Credentials
    database: str
    required: bool = True


@dataclass(frozen=True)
class RedisUse:
    """The service's keys in Redis: those that begin with `key_prefix`."""

    endpoint: Endpoint
    credentials: Credentials
    key_prefix: str
    required: bool = True


@dataclass(frozen=True)
class RabbitmqUse:
    """The service's virtual host."""

    endpoint: Endpoint
    credentials: Credentials
    vhost: str
    required: bool = True


@dataclass(frozen=True)
class ConsulUse:
    """Consul, with the service's own token."""

    endpoint: Endpoint
    credentials: Credentials
    required: bool = False


@dataclass(frozen=True)
class Issuer:
    """An issuer whose tokens the service accepts. `in_cluster`: its keys come from the API server, which wants a token itself.

    `namespaces` are those whose ServiceAccounts own the service of their name; `operator` is the subject that has `operator_scopes` besides.
    """

    issuer: str
    jwks_url: str
    audience: str = AUDIENCE
    scopes: tuple[str, ...] = ()
    namespaces: tuple[pulumi.Input[str], ...] = ()
    operator: pulumi.Input[str] | None = None
    operator_scopes: tuple[str, ...] = ()
    in_cluster: bool = True


@dataclass(frozen=True)
class ServiceArgs:
    """A microservice. `command` are the arguments of the image's Python; `ca` the ConfigMap with the stack's CA."""

    at: Placement
    image: pulumi.Input[str]
    command: tuple[str, ...]
    profile: str
    ca: pulumi.Input[str]
    replicas: int = 1
    resources: Resources = field(default_factory=lambda: Resources(cpu_m=50, memory_mib=160))
    postgres: PostgresUse | None = None
    redis: RedisUse | None = None
    rabbitmq: RabbitmqUse | None = None
    consul: ConsulUse | None = None
    registry_url: pulumi.Input[str] | None = None
    issuers: tuple[Issuer, ...] = ()
    version: str | None = None
    port: int = HTTP_PORT

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}: a service needs at least 1; remove its entry to stop it")
        if not self.command:
            raise ValueError("command is empty: name the module to run, such as [-m, demo.user_service]")


def uses(args: ServiceArgs) -> dict[str, PostgresUse | RedisUse | RabbitmqUse | ConsulUse]:
    """The engines that the service uses, by name."""
    engines = {"postgres": args.postgres, "redis": args.redis, "rabbitmq": args.rabbitmq, "consul": args.consul}
    return {name: use for name, use in engines.items() if use is not None}


def engine_settings(name: str, use: PostgresUse | RedisUse | RabbitmqUse | ConsulUse) -> dict[str, pulumi.Input[object]]:
    """One engine's section of settings.json."""
    ca = None if use.endpoint.ca is None else f"{ROOT}/ca.crt"
    if isinstance(use, ConsulUse):
        scheme = "http" if use.endpoint.ca is None else "https"
        address = pulumi.Output.format("{0}://{1}:{2}", scheme, use.endpoint.host, use.endpoint.port)
        return {"address": address, "ca": ca, "token_file": f"{ROOT}/{name}/token", "required": use.required}
    own: dict[str, pulumi.Input[object]]
    match use:
        case PostgresUse():
            own = {"database": use.database}
        case RedisUse():
            own = {"key_prefix": use.key_prefix}
        case RabbitmqUse():
            own = {"vhost": use.vhost}
    return {
        "host": use.endpoint.host,
        "port": use.endpoint.port,
        "ca": ca,
        "credentials": f"{ROOT}/{name}",
        "required": use.required,
        **own,
    }


def issuer_settings(issuer: Issuer) -> dict[str, pulumi.Input[object]]:
    """One issuer's entry of settings.json."""
    subject_scopes: pulumi.Input[dict[str, list[str]]] = {}
    if issuer.operator is not None:
        subject_scopes = pulumi.Output.from_input(issuer.operator).apply(lambda subject: {subject: list(issuer.operator_scopes)})
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


def settings(name: str, args: ServiceArgs) -> dict[str, pulumi.Input[object]]:
    """settings.json of service `name`, as values that may still be outputs. Nothing in it is secret."""
    sections: dict[str, pulumi.Input[object]] = {engine: engine_settings(engine, use) for engine, use in uses(args).items()}
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


def secret_files(engine: str) -> list[core.v1.KeyToPathArgs]:
    """The files of one engine's credentials, in a folder of their own."""
    keys = ("token",) if engine == "consul" else ("username", "password")
    return [core.v1.KeyToPathArgs(key=key, path=f"{engine}/{key}") for key in keys]


def projected(args: ServiceArgs, config_map: pulumi.Input[str]) -> Mount:
    """`/run/groundwork`: settings, CA, credentials and tokens as one read-only tree that the kubelet swaps whole."""
    sources = [
        core.v1.VolumeProjectionArgs(config_map=core.v1.ConfigMapProjectionArgs(name=config_map)),
        core.v1.VolumeProjectionArgs(
            config_map=core.v1.ConfigMapProjectionArgs(name=args.ca, items=[core.v1.KeyToPathArgs(key="ca.crt", path="ca.crt")])
        ),
        core.v1.VolumeProjectionArgs(
            service_account_token=core.v1.ServiceAccountTokenProjectionArgs(audience=AUDIENCE, expiration_seconds=TOKEN_SECONDS, path="token")
        ),
        *(
            core.v1.VolumeProjectionArgs(secret=core.v1.SecretProjectionArgs(name=use.credentials.secret, items=secret_files(engine)))
            for engine, use in uses(args).items()
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


def deployment(name: str, args: ServiceArgs, config_map: pulumi.Input[str], content: pulumi.Input[str]) -> apps.v1.DeploymentSpecArgs:
    """A rolling update never takes a ready pod away before its successor is ready."""
    mounts = [projected(args, config_map), workload.scratch("tmp", "/tmp", args.resources.scratch_mib)]  # noqa: S108 a mount, not a file
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
            container=container(name, args, mounts),
            uid=UID,
            gid=UID,
            mounts=mounts,
            content=content,
            service_account=name,
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


def demand(resources: Resources, replicas: int) -> Demand:
    """What a service needs at most: its replicas and the extra pod of a rolling update."""
    return Demand.of(resources, replicas + 1)


class Service(pulumi.ComponentResource):
    """A microservice. Outputs: `endpoint` and `url`, as callers in the cluster reach it."""

    endpoint: Endpoint
    url: pulumi.Output[str]

    def __init__(self, name: str, args: ServiceArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:app:Service", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, provider=provider)

        rendered = pulumi.Output.json_dumps(settings(name, args), sort_keys=True, indent=1)
        config_map = core.v1.ConfigMap(
            name, metadata=labels.metadata(f"{name}-settings", name, args.at), data={"settings.json": rendered}, opts=child
        )
        account = core.v1.ServiceAccount(name, metadata=labels.metadata(name, name, args.at), automount_service_account_token=False, opts=child)
        content = workload.digest(rendered, *(use.credentials.digest for use in uses(args).values()))
        service = core.v1.Service(name, metadata=labels.metadata(name, name, args.at), spec=front(name, args), opts=child)
        apps.v1.Deployment(
            name,
            metadata=labels.metadata(name, name, args.at),
            spec=deployment(name, args, config_map.metadata.name.apply(str), content),
            opts=pulumi.ResourceOptions(parent=self, provider=provider, depends_on=[account]),
        )
        if args.replicas > 1:
            policy.v1.PodDisruptionBudget(
                name, metadata=labels.metadata(name, name, args.at), spec=workload.disruption_budget(name, args.at.stack), opts=child
            )
        host = pulumi.Output.format("{0}.{1}.svc", service.metadata.name, args.at.namespace)
        self.endpoint = Endpoint(host=host, port=args.port, ca=None)
        self.url = pulumi.Output.format("http://{0}:{1}", host, args.port)
        self.register_outputs({"url": self.url})
