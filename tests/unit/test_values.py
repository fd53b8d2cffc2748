"""What a single value of a stack file may be, up to its bounds."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stacks.settings import StackSettings
from stacks.values import ResourceSettings
from tests.unit.stackfiles import accepted, changed, refused, service

SHA = "@sha256:" + "b" * 64


def told(path: str, value: object) -> str:
    """The one line with which a value is refused."""
    lines = refused(changed({path: value}))
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "image",
    [
        "postgres",
        "postgres:latest",
        "postgres:17",
        "postgres:v17",
        "postgres:17-bookworm",
        "postgres:main",
        "postgres:stable-bookworm",
        "registry.example:5000/postgres",
        "registry.example:5000/postgres:main",
        "localhost/postgres:latest",
        "localhost/postgres",
    ],
)
def test_a_moving_image_is_refused(image: str) -> None:
    line = told("images.postgres", image)
    assert line == f"settings.images.postgres = '{image}' in Pulumi.dev.yaml: names a moving image: write an exact tag such as :1.2.3, or a digest"


@pytest.mark.parametrize(
    "image",
    [
        "postgres:17.11",
        "postgres:17.11-bookworm",
        "registry.example:5000/team/postgres:v17.11",
        "[fd00::1]:5000/postgres:17.11",
        f"postgres{SHA}",
        f"postgres:17{SHA}",
        f"postgres:main{SHA}",
        "registry.example/postgres:20260102",
        "registry.example/postgres:build-4711",
        "localhost/groundwork/postgres:17",
    ],
)
def test_an_exact_image_is_accepted(image: str) -> None:
    assert accepted(changed({"images.postgres": image})).images.postgres == image


@pytest.mark.parametrize("digest", ["sha256:" + "b" * 63, "sha256:" + "b" * 65, "sha256:" + "B" * 64, "md5:" + "b" * 64, ""])
def test_an_image_with_a_broken_digest_is_refused(digest: str) -> None:
    assert "has no valid digest after `@`" in told("images.postgres", f"postgres@{digest}")


@pytest.mark.parametrize("image", ["", "Postgres:17.11", "post gres:17.11", "postgres:17.11 ", "postgres:", "/postgres:17.11", "https://x/y:17.11"])
def test_what_is_no_image_reference_is_refused(image: str) -> None:
    assert "is no image: write it like registry.example.com/team/name:1.2.3" in told("images.postgres", image)


def test_an_image_of_bitnami_is_refused() -> None:
    assert "is a Bitnami image, which gets no updates any more" in told("images.postgres", "docker.io/bitnami/postgresql:17.1")


def test_a_service_by_a_moving_image_is_refused() -> None:
    assert told("services.a", service(image="registry.example/a:main")).startswith("settings.services.a.image = 'registry.example/a:main' in")


@pytest.mark.parametrize("block", ["10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "2001:db8::1/128", "0.0.0.0/0", "::/0"])
def test_a_block_of_addresses_is_accepted(block: str) -> None:
    assert accepted(changed({"cluster.operator_cidrs": [block]})).cluster.operator_cidrs == (block,)


@pytest.mark.parametrize(("written", "meant"), [("10.0.0.1", "10.0.0.1/32"), ("fd00::0:1", "fd00::1/128"), ("10.0.0.0/255.0.0.0", "10.0.0.0/8")])
def test_a_block_of_addresses_is_kept_in_its_one_form(written: str, meant: str) -> None:
    assert accepted(changed({"cluster.operator_cidrs": [written]})).cluster.operator_cidrs == (meant,)


@pytest.mark.parametrize("block", ["10.0.0.1/8", "fd00::1/8", "10.0.0.0/33", "fd00::/129", "", "everybody", "10.0.0/8"])
def test_what_is_no_block_of_addresses_is_refused(block: str) -> None:
    line = told("cluster.operator_cidrs", [block])
    assert line.startswith(f"settings.cluster.operator_cidrs[0] = {block!r} in Pulumi.dev.yaml: is no block of addresses")
    assert line.endswith("write it like 10.0.0.0/8 or fd00::/8")


@pytest.mark.parametrize("block", ["fe80::1%eth0/128", "::ffff:10.0.0.0/104"])
def test_a_block_that_no_network_policy_takes_is_refused(block: str) -> None:
    assert "is a block that no NetworkPolicy takes" in told("cluster.operator_cidrs", [block])


@pytest.mark.parametrize("key", ["jwks_cidrs", "api_server_cidrs", "operator_cidrs"])
def test_every_list_of_blocks_is_checked_in_both_families(key: str) -> None:
    lines = refused(changed({f"cluster.{key}": ["10.0.0.0/8", "fd00::/8", "10.0.0.1/8", "fd00::1/8"]}))
    assert [line.split(" = ")[0] for line in lines] == [f"settings.cluster.{key}[2]", f"settings.cluster.{key}[3]"]


@pytest.mark.parametrize("key", ["api_server_ports", "dns.ports"])
@pytest.mark.parametrize(("port", "good"), [(0, False), (1, True), (65535, True), (65536, False), (-1, False), (99999, False)])
def test_a_port_of_the_cluster_has_bounds(key: str, port: int, good: bool) -> None:
    raw = changed({"cluster.dns": {"labels": {"k8s-app": "kube-dns"}}}) if key == "dns.ports" else changed({})
    raw = changed({f"cluster.{key}": [port]}, raw)
    if good:
        accepted(raw)
    else:
        assert refused(raw) == [f"settings.cluster.{key}[0] = {port} in Pulumi.dev.yaml: is no port: use 1 to 65535"]


@pytest.mark.parametrize("name", ["cluster.local", "k8s", "a.b-c.d1", "a" * 63 + ".b", "1.2"])
def test_a_domain_is_a_dns_name(name: str) -> None:
    assert accepted(changed({"cluster.domain": name})).cluster.domain == name


@pytest.mark.parametrize("key", ["domain", "storage_class"])
@pytest.mark.parametrize(
    "name", ["", ".", "cluster.local.", "Cluster.local", "a_b", "-a", "a-", "a..b", "a" * 64, ".".join(["a" * 60] * 5), "a b", "a\n"]
)
def test_what_is_no_dns_name_is_refused(key: str, name: str) -> None:
    assert told(f"cluster.{key}", name).startswith(f"settings.cluster.{key} = {name!r} in Pulumi.dev.yaml: is no DNS name: use ")


@pytest.mark.parametrize(("name", "good"), [("a" * 63, True), ("a" * 64, False), ("a.b", False), ("My", False), ("2026", True), ("", False)])
def test_a_namespace_is_a_dns_label(name: str, good: bool) -> None:
    if good:
        assert accepted(changed({"namespace": name})).namespace_of("dev") == name
    else:
        assert told("namespace", name) == (
            f"settings.namespace = {name!r} in Pulumi.dev.yaml: is no DNS label: use at most 63 of a-z, 0-9 and -, no - first or last"
        )


@pytest.mark.parametrize("name", ["a", "a" * 58, "a-1"])
def test_a_service_may_have_a_name_that_leaves_room_for_its_logins(name: str) -> None:
    assert name in accepted(changed({f"services.{name}": service(uses=["postgres", "redis", "rabbitmq"])})).services


@pytest.mark.parametrize("name", ["a" * 59, "a" * 63, "1a", "-a", "a-", "A", "a_b", "a.b", "", "a\n"])
def test_what_cannot_be_a_services_name_is_refused_with_the_number(name: str) -> None:
    lines = refused(changed({}) | {"services": {name: service()}})
    assert len(lines) == 1
    assert " in Pulumi.dev.yaml: cannot be a service's name: use at most 58 of a-z, 0-9 and -, a letter first" in lines[0]


@pytest.mark.parametrize("key", ["issuer", "jwks_url"])
@pytest.mark.parametrize("url", ["", "nonsense", "ftp://x/y", "https://", "https:///keys", "https://x y/", "https://x:0/", "https://x:99999/"])
def test_what_is_no_url_is_refused(key: str, url: str) -> None:
    assert told(f"cluster.{key}", url) == f"settings.cluster.{key} = {url!r} in Pulumi.dev.yaml: is no URL: write it like https://host/path"


@pytest.mark.parametrize(
    ("path", "least", "most"),
    [
        ("postgres.storage_gib", 1, 65536),
        ("rotation", 1, 9999),
        ("registry.replicas", 1, 50),
        ("services.user-service.pool_size", 1, 100),
        ("services.user-service.resources.memory_mib", 16, 33554432),
        ("services.user-service.resources.scratch_mib", 1, 1048576),
        ("services.user-service.resources.cpu_limit_m", 50, 2000000),
    ],
)
def test_a_number_has_bounds(path: str, least: int, most: int) -> None:
    for value in (least, most):
        assert accepted(changed({path: value}))
    for value in (least - 1, most + 1, 10**9):
        assert told(path, value).startswith(f"settings.{path} = {value} in Pulumi.dev.yaml: ")


def test_a_request_of_cpu_has_bounds() -> None:
    accepted(changed({"registry.resources": {"cpu_m": 2000000, "cpu_limit_m": 2000000}}))
    lines = refused(changed({"registry.resources": {"cpu_m": 0}})) + refused(changed({"registry.resources": {"cpu_m": 2000001}}))
    assert [line.split(" in ")[0] for line in lines] == [f"settings.registry.resources.cpu_m = {value}" for value in (0, 2000001)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("profile", "staging"),
        ("consul.servers", 2),
        ("cluster.context", ""),
        ("cluster.pod_security_version", "latest"),
        ("cluster.pod_security_version", "1.34"),
        ("cluster.network_plugin", "Cilium"),
        ("images.build.platform", "linux/386"),
        ("images.build.repository", "registry.example"),
        ("certificates.authority", 0),
        ("postgres.max_connections", 262144),
        ("retain_data", 1),
        ("rotation", 1.5),
    ],
)
def test_other_values_that_cannot_be_are_named(path: str, value: object) -> None:
    shown = repr(value)
    assert any(line.startswith(f"settings.{path} = {shown} in Pulumi.dev.yaml: ") for line in refused(changed({path: value})))


@pytest.mark.parametrize(
    "labels", [{"k8s-app": "a b"}, {"k8s-app": "a" * 64}, {"-a": "b"}, {"k8s app": "x"}, {"k8s-app": "-x"}], ids=lambda labels: str(labels)[:20]
)
def test_labels_that_kubernetes_would_refuse_are_refused(labels: dict[str, str]) -> None:
    assert "settings.cluster.dns.labels" in refused(changed({"cluster.dns": {"labels": labels}}))[0]


@pytest.mark.parametrize(
    ("path", "value"), [("cluster.dns", {"cidrs": ["10.0.0.1/32"], "ports": []}), ("certificates", {"trusted": []}), ("services.a", {"command": []})]
)
def test_a_list_that_says_nothing_is_refused(path: str, value: object) -> None:
    assert any(line.endswith(" in Pulumi.dev.yaml: is empty: name at least one") for line in refused(changed({path: value})))


# Half of a section leaves the other half as it is by default.


def resources(settings: StackSettings, section: str) -> dict[str, int]:
    return getattr(settings, section).resources.model_dump()


@pytest.mark.parametrize("section", ["postgres", "redis", "rabbitmq", "consul", "registry", "config"])
@pytest.mark.parametrize(("key", "value"), [("memory_mib", 2048), ("cpu_m", 300), ("cpu_limit_m", 3000), ("scratch_mib", 99)])
def test_resources_that_name_one_number_keep_the_sections_others(section: str, key: str, value: int) -> None:
    default = resources(accepted(changed({})), section)
    assert resources(accepted(changed({f"{section}.resources": {key: value}})), section) == {**default, key: value}


def test_resources_of_a_service_that_name_one_number_keep_the_others() -> None:
    entry = accepted(changed({"services.user-service.resources": {"memory_mib": 512}})).services["user-service"]
    assert entry.resources.model_dump() == {"cpu_m": 50, "memory_mib": 512, "cpu_limit_m": 1000, "scratch_mib": 64}


def test_a_limit_below_its_request_is_refused() -> None:
    accepted(changed({"postgres.resources": {"cpu_m": 100, "cpu_limit_m": 100}}))
    assert told("postgres.resources", {"cpu_m": 100, "cpu_limit_m": 99}) == (
        "settings.postgres.resources.cpu_limit_m = 99 in Pulumi.dev.yaml: is below the request, cpu_m = 100: raise the limit, or lower the request"
    )


def test_a_request_above_the_sections_own_limit_is_refused_with_both_numbers() -> None:
    assert told("postgres.resources", {"cpu_m": 1001}).startswith("settings.postgres.resources.cpu_limit_m = 1000 in Pulumi.dev.yaml: is below")


def test_resources_of_a_default_have_a_limit_above_their_request_too() -> None:
    with pytest.raises(ValidationError, match="is below the request, cpu_m = 1001"):
        ResourceSettings(cpu_m=1001, memory_mib=64)


def test_resources_that_are_no_mapping_are_refused() -> None:
    assert told("postgres.resources", 5).startswith("settings.postgres.resources = 5 in")
