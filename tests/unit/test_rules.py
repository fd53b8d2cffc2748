"""What must hold between several settings: names that collide, engines that are too small, and what production may not do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from components.lib import accounts
from stacks import plan
from stacks.catalog import USABLE
from stacks.settings import StackSettings
from stacks.stackfile import InvalidStackFile
from tests.unit.stackfiles import GOOD, GOOD_IN_PRODUCTION, accepted, changed, refused, service, without

IN = "in Pulumi.dev.yaml:"


def told(change: Mapping[str, object], *, base: Mapping[str, object] = GOOD) -> str:
    """The one line with which changed settings are refused."""
    lines = refused(changed(change, base))
    assert len(lines) == 1, lines
    return lines[0]


# Names.


@pytest.mark.parametrize(
    "name",
    ["admin", "agent", "probe", "default", "guest", "default-deny", "operator", "registry", "config", "postgres", "redis", "rabbitmq", "consul"],
)
def test_a_service_may_not_have_the_name_of_a_part_or_of_an_account(name: str) -> None:
    line = told({f"services.{name}": service(uses=["postgres", "redis", "rabbitmq"])})
    assert line == f"settings.services.{name} {IN} the platform has a part of this name: choose another one"


@pytest.mark.parametrize("engine", ["postgres", "redis", "rabbitmq", "consul"])
@pytest.mark.parametrize("rest", ["headless", "accounts", "tls", "0"])
def test_a_service_may_not_begin_like_the_objects_of_an_engine(engine: str, rest: str) -> None:
    line = told({f"services.{engine}-{rest}": service()})
    assert line == f"settings.services.{engine}-{rest} {IN} begins with {engine}-, as the objects of that engine do: choose another name"


@pytest.mark.parametrize("name", ["postgresql", "my-postgres", "consultant", "administrator", "guests", "headless-postgres"])
def test_a_name_that_is_only_like_a_taken_one_is_accepted(name: str) -> None:
    assert name in accepted(changed({f"services.{name}": service(uses=["postgres", "redis", "rabbitmq"])})).services


@pytest.mark.parametrize("name", ["template0", "template1"])
def test_a_service_may_not_have_the_name_of_a_database_of_postgresql(name: str) -> None:
    line = told({f"services.{name}": service(uses=["postgres"])})
    assert line == f"settings.services.{name} {IN} database {name} belongs to PostgreSQL itself: choose another name"
    assert accepted(changed({f"services.{name}": service(uses=["redis"])}))


@pytest.mark.parametrize("name", ["public", "none"])
def test_a_service_may_not_have_the_name_of_a_role_that_postgresql_keeps_for_itself(name: str) -> None:
    line = told({f"services.{name}": service(uses=["postgres"])})
    assert line == f"settings.services.{name} {IN} the role {name} belongs to PostgreSQL itself: choose another name"


def everything(settings: StackSettings, stack: str = "dev") -> list[tuple[str, str]]:
    """Kind and name of every object of a stack, and of what Kubernetes itself puts into its namespace."""
    graph, _ = plan.planned(stack, settings)
    ours = [(resource.type.rpartition(":")[2], resource.object_name or "") for resource in graph.kubernetes() if resource.object_name]
    return [*ours, ("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")]


def with_service(name: str) -> dict[str, object]:
    return changed({f"services.{name}": service(uses=["postgres", "redis", "rabbitmq"], replicas=2)})


def is_accepted(name: str) -> bool:
    try:
        accepted(with_service(name))
    except InvalidStackFile:
        return False
    return True


def test_services_of_any_names_that_are_accepted_take_the_name_of_no_object_of_the_stack() -> None:
    """Each object's name is tried, also without what a service's own objects end in."""
    there = {name for _, name in everything(accepted(changed({"consul.servers": 3, "services.user-service.replicas": 2})))}
    endings = ("", "-settings", "-postgres", "-redis", "-rabbitmq", "-consul")
    tried = {name.removesuffix(ending) for name in there for ending in endings} - GOOD["services"].keys()
    allowed = {name for name in tried if is_accepted(name)}
    every = accepted(changed({f"services.{name}": service(uses=["postgres", "redis", "rabbitmq"], replicas=2) for name in allowed}))
    assert [what for what, count in Counter(everything(every)).items() if count > 1] == []
    assert {"groundwork-ca", "platform-demand"} <= allowed  # objects of kinds that no service has


def test_a_taken_name_is_told_once_though_every_engine_refuses_it() -> None:
    assert len(refused(changed({"services.admin": service(uses=["postgres", "redis", "rabbitmq"])}))) == 1


def test_two_services_never_share_a_database() -> None:
    """A database is named like its service with _ for -, and no service's name may have a _."""
    settings = accepted(changed({"services.a-b": service(uses=["postgres"]), "services.ab": service(uses=["postgres"])}))
    assert settings.users("postgres") == ("a-b", "ab", "user-service")
    assert "cannot be a service's name" in refused(changed({"services.a_b": service(uses=["postgres"])}))[0]


@pytest.mark.parametrize("stack", ["My_Stack", "my.stack", "a" * 51, "a" * 70, "-a", "a-"])
def test_a_stack_that_its_objects_cannot_carry_is_refused(stack: str) -> None:
    lines = refused(GOOD, stack)
    assert lines == [
        f"stack = {stack!r} in Pulumi.{stack}.yaml: a stack's name may have at most 50 of a-z, 0-9 and -, as all its objects carry it: "
        "pulumi stack rename NAME"
    ]


def test_a_stack_of_a_bad_name_is_refused_with_a_namespace_of_a_good_one_too() -> None:
    assert len(refused(changed({"namespace": "mine"}), "My_Stack")) == 1


def test_a_stack_of_the_longest_name_has_a_certificate_that_x_509_allows_and_labels_that_kubernetes_does() -> None:
    stack = "a" * 50
    graph, _ = plan.planned(stack, accepted(GOOD, stack))
    subjects = [resource["subject"]["commonName"] for resource in graph.of_type("SelfSignedCert")]
    assert subjects
    assert max(map(len, subjects)) == 64
    labels = [value for resource in graph.kubernetes() for value in resource.inputs.get("metadata", {}).get("labels", {}).values()]
    assert max(map(len, labels)) <= 63
    assert [r.object_name for r in graph.of_type("kubernetes:core/v1:Namespace")] == [f"groundwork-{stack}"]
    assert len(f"groundwork-{stack}") <= 63


def test_a_service_of_the_longest_name_has_objects_that_kubernetes_takes() -> None:
    name = "a" * 58
    graph, _ = plan.planned("dev", accepted(with_service(name)))
    longest = {kind: max(len(r.object_name or "") for r in graph.of_type(kind)) for kind in ("Service", "Job", "CronJob", "Secret", "ConfigMap")}
    assert longest["Service"] == 58
    assert longest["Job"] <= 63
    assert longest["CronJob"] <= 52  # https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/
    assert max(longest["Secret"], longest["ConfigMap"]) <= 253


@pytest.mark.parametrize("rotation", [1, 9999])
def test_a_service_of_the_longest_name_has_a_login_that_postgresql_does_not_cut(rotation: int) -> None:
    settings = accepted(changed({"rotation": rotation}, with_service("a" * 58)))
    assert len(accounts.login("a" * 58, settings.rotation)) <= 63


# Services.


@pytest.mark.parametrize(
    ("entry", "key", "what"),
    [
        ({"uses": ["kafka"]}, "uses", f"names kafka, which is no engine: choose from {', '.join(USABLE)}"),
        ({"uses": ["consul"]}, "uses", "names consul, which is there for every service: leave it out"),
        ({"uses": ["redis", "redis"]}, "uses", "names redis 2 times: keep one"),
        ({"optional": ["redis"]}, "optional", "names redis, which `uses` does not: add it there, or remove it here"),
        ({"uses": ["redis"], "optional": ["redis", "redis"]}, "optional", "names redis 2 times: keep one"),
        ({"calls": ["nobody"]}, "calls", "names nobody, which is no service of this stack: add it, or remove the call"),
        ({"calls": ["redis"]}, "calls", "names redis, which is an engine: move it to `uses`"),
        ({"calls": ["consul"]}, "calls", "names consul: leave it out"),
        ({"calls": ["user-service", "user-service"]}, "calls", "names user-service 2 times: keep one"),
        ({"port": 9000}, "port = 9000", "every service offers its metrics there: choose another one, such as 8000"),
        ({"port": 99999}, "port = 99999", "use 1024 to 65535, which need no privilege"),
        ({"port": 1023}, "port = 1023", "use 1024 to 65535, which need no privilege"),
        ({"port": 65536}, "port = 65536", "use 1024 to 65535, which need no privilege"),
        ({"port": 0}, "port = 0", "use 1024 to 65535, which need no privilege"),
    ],
)
def test_a_service_that_cannot_work_is_refused(entry: dict[str, object], key: str, what: str) -> None:
    assert told({"services.a": service(**entry)}) == f"settings.services.a.{key} {IN} {what}"


@pytest.mark.parametrize(
    "entry",
    [
        {"port": 1024},
        {"port": 65535},
        {"port": 8999},
        {"uses": ["postgres", "redis", "rabbitmq"], "optional": ["redis", "rabbitmq"]},
        {"calls": ["user-service", "registry", "config"]},
    ],
)
def test_a_service_at_the_bounds_is_accepted(entry: dict[str, object]) -> None:
    assert accepted(changed({"services.a": service(**entry)}))


# Engines.


@pytest.mark.parametrize(("engine", "least"), [("postgres", 128), ("redis", 64), ("rabbitmq", 256), ("consul", 128)])
def test_an_engine_with_too_little_memory_is_refused_with_the_number(engine: str, least: int) -> None:
    assert accepted(changed({f"{engine}.resources": {"memory_mib": least}}))
    for memory in (least - 1, 16):
        line = told({f"{engine}.resources": {"memory_mib": memory}})
        assert line == f"settings.{engine}.resources.memory_mib = {memory} {IN} {engine} needs at least {least}"


def test_a_volume_that_nobody_has_is_refused() -> None:
    assert told({"postgres.storage_gib": 10**9}).startswith(f"settings.postgres.storage_gib = 1000000000 {IN} input should be less than")


@pytest.mark.parametrize("image", ["consul:1.15.4", "docker.io/library/consul:1.22.7", "library/consul:1.22.7"])
def test_the_image_of_consul_that_ended_is_refused(image: str) -> None:
    assert told({"images.consul": image}) == (
        f"settings.images.consul = '{image}' {IN} that image ended with version 1.15, use hashicorp/consul at an exact version"
    )


def test_the_image_of_consul_that_ended_is_refused_by_a_moving_tag_too() -> None:
    lines = refused(changed({"images.consul": "consul:1.16"}))
    assert [line.split(" in ")[0] for line in lines] == ["settings.images.consul = 'consul:1.16'"] * 2


@pytest.mark.parametrize(
    ("engine", "image", "exact"),
    [
        ("redis", "redis:7.2", "7.2.16"),
        ("redis", "redis:7.2-bookworm", "7.2.16"),
        ("rabbitmq", "rabbitmq:4.3-management", "4.3.5"),
        ("consul", "hashicorp/consul:1.22", "1.22.7"),
    ],
)
def test_an_engine_at_a_minor_version_alone_is_refused(engine: str, image: str, exact: str) -> None:
    line = told({f"images.{engine}": image})
    assert line == f"settings.images.{engine} = '{image}' {IN} names a moving image: write an exact version, such as {exact}, or a digest"


@pytest.mark.parametrize(
    ("engine", "image"),
    [
        ("redis", "redis:7.2@sha256:" + "b" * 64),
        ("redis", "redis:8.0.2"),
        ("redis", "localhost/groundwork/redis:8.0-abc"),
        ("redis", "registry.example/redis:build-20260102"),
        ("postgres", "postgres:17.11"),
        ("consul", "hashicorp/consul:1.22.7"),
    ],
)
def test_an_engine_at_an_exact_version_is_accepted(engine: str, image: str) -> None:
    assert accepted(changed({f"images.{engine}": image}))


def test_connections_that_the_pools_do_not_fit_in_are_refused_with_the_number() -> None:
    needed = 2 * 1 * (8 + 1) + 20  # user-service, twice while it rolls, with its health check; accounts and an administrator
    assert accepted(changed({"postgres.max_connections": needed}))
    assert told({"postgres.max_connections": needed - 1}) == (
        f"settings.postgres.max_connections = {needed - 1} {IN} the services' pools may open {needed}: "
        "raise it, lower pool_size or replicas of a service, or leave it out"
    )


def test_an_authority_that_nobody_trusts_may_not_sign() -> None:
    assert accepted(changed({"certificates": {"authority": 2, "trusted": [1, 2]}}))
    assert told({"certificates": {"authority": 2}}).startswith(f"settings.certificates.authority = 2 {IN} certificates.trusted (1) leaves it out")


# The platform's own image.


def test_a_runtime_image_and_a_build_contradict_each_other() -> None:
    line = told({"images.build": {"repository": "registry.example/x"}})
    assert line.startswith(f"settings.images.build {IN} runtime and build are both set: keep")


def test_no_runtime_image_at_all_is_refused() -> None:
    assert refused(without("images.runtime"))[0].startswith(f"settings.images.runtime {IN} neither runtime nor build is set: give")


def test_a_runtime_image_by_tag_is_refused() -> None:
    line = told({"images.runtime": "registry.example/groundwork:1.0"})
    assert line.startswith(f"settings.images.runtime = 'registry.example/groundwork:1.0' {IN} runtime has no digest: write")


def test_the_sandbox_may_name_its_own_images_by_content_tag() -> None:
    image = "localhost/groundwork/runtime:abc"
    assert accepted(changed({"images.runtime": image}), "sandbox").images.runtime == image


# The cluster.


def test_keys_outside_of_the_cluster_need_addresses() -> None:
    keys = {"cluster.jwks_url": "https://keys.example/jwks"}
    assert told(keys).startswith(f"settings.cluster.jwks_url = 'https://keys.example/jwks' {IN} is outside of the cluster")
    assert accepted(changed({**keys, "cluster.jwks_cidrs": ["198.51.100.0/24"]}))


@pytest.mark.parametrize("host", ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local"])
def test_keys_of_the_api_server_need_no_addresses(host: str) -> None:
    assert accepted(changed({"cluster.jwks_url": f"https://{host}/openid/v1/jwks"}))


@pytest.mark.parametrize("host", ["kubernetes.default.svc.example.com", "kubernetes.default.svcx", "kubernetes.default.svc@example.com"])
def test_a_host_that_only_begins_like_the_api_server_is_outside(host: str) -> None:
    """What is taken for the API server is sent a token."""
    assert "is outside of the cluster" in told({"cluster.jwks_url": f"https://{host}/jwks"})


def test_dns_servers_that_are_nobody_are_refused() -> None:
    assert told({"cluster.dns": {}}).startswith(f"settings.cluster.dns {IN} names neither labels nor cidrs")
    assert accepted(changed({"cluster.dns": {"cidrs": ["fd00::a/128"]}}))
    assert accepted(changed({"cluster.dns": {"labels": {"k8s-app": "kube-dns"}}}))


# Production.


def in_production(change: Mapping[str, object]) -> str:
    return told(change, base=GOOD_IN_PRODUCTION)


def test_the_good_production_stack_of_these_tests_is_accepted() -> None:
    assert accepted(GOOD_IN_PRODUCTION).profile == "prod"


def test_production_may_not_delete_its_data() -> None:
    assert in_production({"retain_data": False}).startswith(f"settings.retain_data {IN} is false in profile prod")


@pytest.mark.parametrize(
    ("cidrs", "shown"),
    [
        (["0.0.0.0/0"], "0.0.0.0/0"),
        (["::/0"], "::/0"),
        (["0.0.0.0/1", "128.0.0.0/1"], "0.0.0.0/0"),
        (["::/1", "8000::/1"], "::/0"),
        (["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"], "0.0.0.0/0"),
        (["128.0.0.0/1"], "128.0.0.0/1"),
        (["16.0.0.0/7"], "16.0.0.0/7"),
        (["10.0.0.0/7"], "10.0.0.0/7"),
        (["fc00::/6"], "fc00::/6"),
        (["16.0.0.0/8", "17.0.0.0/8"], "16.0.0.0/7"),
        (["2000::/3"], "2000::/3"),
        (["2a00::/18"], "2a00::/18"),
        (["198.51.100.7/32", "0.0.0.0/0"], "0.0.0.0/0"),
    ],
)
def test_production_may_not_let_everybody_in_not_in_halves_either(cidrs: list[str], shown: str) -> None:
    line = in_production({"cluster.operator_cidrs": cidrs})
    assert line == (
        f"settings.cluster.operator_cidrs {IN} lets in {shown} in profile prod, which is nearly everybody: name the operators' own addresses"
    )


@pytest.mark.parametrize(
    "cidrs", [["10.0.0.0/8"], ["fc00::/7"], ["17.0.0.0/8"], ["2a00::/19"], ["172.16.0.0/12", "192.168.0.0/16"], ["10.0.0.0/8", "11.0.0.0/8"], []]
)
def test_production_lets_in_what_one_organisation_has(cidrs: list[str]) -> None:
    assert accepted(changed({"cluster.operator_cidrs": cidrs}, GOOD_IN_PRODUCTION))


def test_development_lets_in_whom_it_likes() -> None:
    assert accepted(changed({"cluster.operator_cidrs": ["0.0.0.0/0", "::/0"]}))


@pytest.mark.parametrize("key", ["issuer", "jwks_url"])
def test_production_takes_no_keys_in_clear(key: str) -> None:
    change = {f"cluster.{key}": "http://keys.example/x", "cluster.jwks_cidrs": ["198.51.100.0/24"]}
    assert in_production(change).startswith(f"settings.cluster.{key} = 'http://keys.example/x' {IN} is not encrypted")
    assert accepted(changed(change))
    assert accepted(changed({**change, f"cluster.{key}": "https://keys.example/x"}, GOOD_IN_PRODUCTION))


def test_production_builds_no_image() -> None:
    base = without("images.runtime", GOOD_IN_PRODUCTION)
    line = told({"images.build": {"repository": "registry.example/x"}}, base=base)
    assert line.startswith(f"settings.images.build {IN} builds a new image in profile prod")


@pytest.mark.parametrize("registry", ["localhost", "localhost:5000", "127.0.0.1:5000", "127.0.0.1", "[::1]:5000"])
@pytest.mark.parametrize("key", ["images.postgres", "images.redis", "images.rabbitmq", "images.consul", "services.user-service.image"])
def test_production_runs_no_image_of_one_machine(key: str, registry: str) -> None:
    image = f"{registry}/x/y:1.2.3"
    assert in_production({key: image}) == (
        f"settings.{key} = '{image}' {IN} is on one machine only, in profile prod: push it to a registry that every node can pull from"
    )
    assert accepted(changed({key: image}))


def test_production_runs_no_runtime_image_of_one_machine() -> None:
    assert "is on one machine only" in in_production({"images.runtime": "localhost/groundwork/runtime:abc"})


def test_production_runs_an_image_of_a_host_that_only_begins_like_localhost() -> None:
    assert accepted(changed({"images.redis": "localhost.example/redis:7.2.16"}, GOOD_IN_PRODUCTION))


def test_all_that_production_refuses_is_told_at_once() -> None:
    change = {
        "retain_data": False,
        "cluster.operator_cidrs": ["0.0.0.0/0", "::/0"],
        "cluster.issuer": "http://keys.example",
        "images.redis": "localhost/redis:7.2.16",
    }
    assert len(refused(changed(change, GOOD_IN_PRODUCTION))) == 5
