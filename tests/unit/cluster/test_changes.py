"""A change that would break what runs is refused before it begins; one that would not is let through. All problems at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stacks.cluster.changes import Wanted, WantedEngine, problems, version
from stacks.cluster.facts import Claim, ClusterFacts, NamespaceFacts, StatefulSetFacts, StorageClass, assumed

OURS = {"app.kubernetes.io/part-of": "groundwork", "app.kubernetes.io/instance": "dev"}
IMAGES = {"postgres": "postgres:17.11-bookworm", "redis": "redis:7.2.16", "rabbitmq": "rabbitmq:4.3.5", "consul": "hashicorp/consul:1.22.7"}
CLASSES = (
    StorageClass("standard", expandable=True, default=True, provisioner="csi.example.com"),
    StorageClass("fixed", expandable=False, default=False, provisioner="csi.example.com"),
)
WANTED = Wanted(
    namespace="groundwork-dev",
    storage_class=None,
    rotation=3,
    engines={name: WantedEngine(replicas=3 if name == "consul" else 1, storage_gib=4, image=image) for name, image in IMAGES.items()},
)
THERE = replace(
    assumed(),
    namespace=NamespaceFacts(labels=OURS, terminating=False),
    storage_classes=CLASSES,
    claims={f"data-{name}-{n}": Claim(4, "standard") for name, engine in WANTED.engines.items() for n in range(engine.replicas)},
    stateful_sets={name: StatefulSetFacts(engine.replicas, engine.image) for name, engine in WANTED.engines.items()},
    rotation=3,
)
NOTHING = assumed()


def found(wanted: Wanted = WANTED, facts: ClusterFacts = THERE) -> list[str]:
    return problems("dev", wanted, facts)


def engine(name: str, *, replicas: int | None = None, storage_gib: int | None = None, image: str | None = None) -> Wanted:
    """The stack with one engine changed."""
    before = WANTED.engines[name]
    after = WantedEngine(replicas or before.replicas, storage_gib or before.storage_gib, image or before.image)
    return replace(WANTED, engines={**WANTED.engines, name: after})


def on_class(storage_class: str | None, facts: ClusterFacts = THERE) -> ClusterFacts:
    """The same volumes on another class."""
    return replace(facts, claims={name: Claim(claim.gib, storage_class) for name, claim in facts.claims.items()})


def running(name: str, image: str) -> ClusterFacts:
    """The cluster with one engine running another image."""
    return replace(THERE, stateful_sets={**THERE.stateful_sets, name: StatefulSetFacts(1, image)})


def test_a_stack_as_it_runs_has_no_problem() -> None:
    assert found() == []


def test_a_new_stack_has_no_problem() -> None:
    assert found(facts=NOTHING) == []


# The namespace


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public", "kube-anything", "openshift-dns"])
def test_a_namespace_of_the_cluster_is_refused_even_where_it_is_not_there(name: str) -> None:
    (problem,) = found(replace(WANTED, namespace=name), NOTHING)
    assert problem.startswith(f"settings.namespace = '{name}' in Pulumi.dev.yaml: this namespace belongs to the cluster itself")
    assert "pulumi config set --path settings.namespace groundwork-dev" in problem


@pytest.mark.parametrize("name", ["default-stack", "kubernetes", "openshift", "my-kube-system"])
def test_a_namespace_that_only_sounds_like_one_is_allowed(name: str) -> None:
    assert found(replace(WANTED, namespace=name), NOTHING) == []


@pytest.mark.parametrize(
    "owner",
    [
        {},
        {"team": "other"},
        {"app.kubernetes.io/instance": "dev"},
        {"app.kubernetes.io/part-of": "harbor", "app.kubernetes.io/instance": "dev"},
    ],
)
def test_a_namespace_that_groundwork_did_not_make_is_never_taken_over(owner: dict[str, str]) -> None:
    (problem,) = found(facts=replace(THERE, namespace=NamespaceFacts(owner, terminating=False)))
    assert "settings.namespace = 'groundwork-dev' in Pulumi.dev.yaml" in problem
    assert "was not made by Groundwork" in problem


@pytest.mark.parametrize("other", ["prod", "dev2"])
def test_a_namespace_of_another_stack_is_refused_with_its_owner(other: str) -> None:
    (problem,) = found(facts=replace(THERE, namespace=NamespaceFacts({**OURS, "app.kubernetes.io/instance": other}, terminating=False)))
    assert f"belongs to stack '{other}'" in problem


@pytest.mark.parametrize("labels", [OURS, {}])
def test_a_namespace_that_is_being_deleted_is_waited_for(labels: dict[str, str]) -> None:
    (problem,) = found(facts=replace(THERE, namespace=NamespaceFacts(labels, terminating=True)))
    assert "kubectl wait --for=delete namespace/groundwork-dev" in problem


def test_what_lies_in_a_foreign_namespace_is_not_compared_with() -> None:
    foreign = replace(THERE, namespace=NamespaceFacts({}, terminating=False))
    assert len(found(engine("postgres", storage_gib=1), foreign)) == 1


# Rotation


@pytest.mark.parametrize(("rotation", "refused"), [(2, True), (3, False), (4, False)])
def test_rotation_only_grows(rotation: int, refused: bool) -> None:
    said = found(replace(WANTED, rotation=rotation))
    assert [problem.partition(", or more")[0] for problem in said] == (
        [
            "settings.rotation = 2 in Pulumi.dev.yaml: the cluster is at 3, and rotation only grows, so that no password comes back: "
            "pulumi config set --path settings.rotation 3"
        ]
        if refused
        else []
    )


def test_a_cluster_that_noted_no_rotation_takes_any() -> None:
    assert found(replace(WANTED, rotation=1), replace(THERE, rotation=None)) == []


# Volumes


def test_a_smaller_volume_is_refused_with_the_size_that_is_there() -> None:
    (problem,) = found(engine("postgres", storage_gib=3))
    assert problem.startswith("settings.postgres.storage_gib = 3 in Pulumi.dev.yaml: volume data-postgres-0 is there with 4 GiB")
    assert "cannot shrink: pulumi config set --path settings.postgres.storage_gib 4" in problem
    assert "docs/operations.md#storage" in problem


def test_a_larger_volume_is_allowed_where_the_class_can_grow() -> None:
    assert found(engine("postgres", storage_gib=5)) == []


def test_a_larger_volume_is_refused_where_the_class_cannot_grow_with_the_command_that_lets_it() -> None:
    (problem,) = found(engine("postgres", storage_gib=5), on_class("fixed"))
    assert problem.startswith("settings.postgres.storage_gib = 5 in Pulumi.dev.yaml: volume data-postgres-0 is there with 4 GiB on class 'fixed'")
    assert """kubectl patch storageclass fixed -p '{"allowVolumeExpansion": true}'""" in problem
    assert "pulumi config set --path settings.postgres.storage_gib 4" in problem


def test_the_same_size_is_allowed_on_a_class_that_cannot_grow() -> None:
    assert found(facts=on_class("fixed")) == []


@pytest.mark.parametrize("storage_class", [None, "removed"])
def test_a_volume_without_a_class_cannot_grow(storage_class: str | None) -> None:
    assert len(found(engine("redis", storage_gib=5), on_class(storage_class))) == 1


def test_where_no_class_may_be_seen_the_api_server_has_the_last_word_on_growing() -> None:
    unseen = replace(on_class("fixed"), storage_classes=())
    assert found(engine("redis", storage_gib=5), unseen) == []


def test_the_largest_of_an_engine_s_volumes_counts() -> None:
    uneven = replace(THERE, claims={**THERE.claims, "data-consul-1": Claim(9, "standard"), "data-consul-2": Claim(6, "standard")})
    (problem,) = found(engine("consul", storage_gib=8), uneven)
    assert "volume data-consul-1 is there with 9 GiB" in problem
    assert "settings.consul.storage_gib 9" in problem


@pytest.mark.parametrize("name", ["data-postgres", "data-postgres-x", "data-postgres-0-copy", "other-data-postgres-0", "data-postgres-replica-0"])
def test_a_volume_by_another_name_is_none_of_the_engine_s(name: str) -> None:
    assert found(facts=replace(THERE, claims={**THERE.claims, name: Claim(99, "elsewhere")})) == []


def test_volumes_that_outlived_their_engine_still_count() -> None:
    after_destroy = replace(THERE, stateful_sets={})
    assert len(found(engine("postgres", storage_gib=3), after_destroy)) == 1


# The storage class


@pytest.mark.parametrize(("wanted", "there", "refused"), [("fixed", "fixed", False), ("fixed", "standard", True), ("fixed", None, True)])
def test_volumes_stay_on_their_storage_class(wanted: str, there: str | None, refused: bool) -> None:
    said = found(replace(WANTED, storage_class=wanted), on_class(there))
    assert len(said) == int(refused)


def test_a_changed_storage_class_is_one_problem_that_names_the_volumes_and_the_class_to_keep() -> None:
    (problem,) = found(replace(WANTED, storage_class="fixed"))
    assert problem.startswith("settings.cluster.storage_class = 'fixed' in Pulumi.dev.yaml: volumes data-postgres-0, data-redis-0, ")
    assert "on class 'standard'" in problem
    assert "pulumi config set --path settings.cluster.storage_class standard" in problem


def test_a_storage_class_may_be_chosen_while_no_volume_is_there() -> None:
    assert found(replace(WANTED, storage_class="fixed"), replace(THERE, claims={})) == []


def test_the_default_class_may_become_another_one_without_harm() -> None:
    moved = replace(THERE, storage_classes=(replace(CLASSES[0], default=False), replace(CLASSES[1], default=True)))
    assert found(facts=moved) == []


@pytest.mark.parametrize(("named", "refused"), [("fixed", True), ("standard", False)])
def test_a_storage_class_that_is_no_longer_named_is_refused_unless_it_is_the_default(named: str, refused: bool) -> None:
    sets = {name: replace(each, storage_class=named) for name, each in THERE.stateful_sets.items()}
    said = found(facts=replace(on_class(named), stateful_sets=sets))
    assert len(said) == int(refused)
    assert all("settings.cluster.storage_class not set in Pulumi.dev.yaml" in problem for problem in said)


# Consul's servers


@pytest.mark.parametrize(("there", "wanted", "refused"), [(3, 1, True), (3, 3, False), (1, 3, False), (1, 1, False)])
def test_consul_s_servers_may_become_more_but_not_fewer(there: int, wanted: int, refused: bool) -> None:
    sets = {**THERE.stateful_sets, "consul": StatefulSetFacts(there, IMAGES["consul"])}
    said = found(engine("consul", replicas=wanted), replace(THERE, stateful_sets=sets))
    assert len(said) == int(refused)


def test_fewer_servers_are_refused_with_the_way_to_do_it() -> None:
    (problem,) = found(engine("consul", replicas=1))
    assert problem.startswith("settings.consul.servers = 1 in Pulumi.dev.yaml: there are 3")
    assert "consul snapshot" in problem
    assert "docs/operations.md#consul-servers" in problem


def test_volumes_of_three_servers_that_outlived_them_do_not_take_one_server() -> None:
    assert len(found(engine("consul", replicas=1), replace(THERE, stateful_sets={}))) == 1


def test_a_volume_that_is_left_over_from_servers_that_went_in_order_is_no_server() -> None:
    one = replace(THERE, stateful_sets={**THERE.stateful_sets, "consul": StatefulSetFacts(1, IMAGES["consul"])})
    assert found(engine("consul", replicas=1), one) == []


# Versions


@pytest.mark.parametrize(
    ("name", "there", "wanted"),
    [
        ("postgres", "postgres:17.11", "postgres:18.1"),
        ("postgres", "postgres:18.1", "postgres:17.11"),
        ("postgres", "localhost/groundwork/postgres:17.12-abc", "postgres:18"),
        ("redis", "redis:8.0.1", "redis:7.2.16"),
        ("redis", "redis:7.4.0", "redis:7.2.16"),
        ("rabbitmq", "rabbitmq:4.3.5", "rabbitmq:4.2.9"),
        ("rabbitmq", "rabbitmq:4.0.0", "rabbitmq:3.13.7-management"),
        ("consul", "hashicorp/consul:1.22.7", "hashicorp/consul:1.21.9"),
        ("consul", "hashicorp/consul:2.0.0", "hashicorp/consul:1.22.7"),
    ],
)
def test_an_engine_whose_volume_the_image_cannot_read_is_refused(name: str, there: str, wanted: str) -> None:
    (problem,) = found(engine(name, image=wanted), running(name, there) if name != "consul" else with_consul(there))
    assert problem.startswith(f"settings.images.{name} = '{wanted}' in Pulumi.dev.yaml: the volume was written by {there}")
    assert "docs/operations.md#" in problem


def with_consul(image: str) -> ClusterFacts:
    """The cluster with three servers of another image."""
    return replace(THERE, stateful_sets={**THERE.stateful_sets, "consul": StatefulSetFacts(3, image)})


def test_a_newer_major_postgresql_is_refused_as_an_upgrade_and_an_older_one_as_a_downgrade() -> None:
    assert "#postgresql-major" in found(engine("postgres", image="postgres:18.1"))[0]
    assert "#downgrade" in found(engine("postgres", image="postgres:16.9"))[0]


@pytest.mark.parametrize(
    ("name", "there", "wanted"),
    [
        ("postgres", "postgres:17.11", "postgres:17.12"),
        ("postgres", "postgres:17.11", "postgres:17.2"),  # minor versions share their files
        ("redis", "redis:7.2.16", "redis:7.2.4"),
        ("redis", "redis:7.2.16", "redis:8.0.0"),
        ("redis", "redis:7.9.0", "redis:7.10.0"),  # numbers, not letters
        ("rabbitmq", "rabbitmq:4.2.9", "rabbitmq:4.3.0"),
        ("rabbitmq", "rabbitmq:4.3.5", "rabbitmq:4.3.1"),
        ("redis", "redis:7.2.16", "redis:7"),  # no minor is known: nothing is claimed
        ("redis", "redis:8.0.0", "redis@sha256:" + "a" * 64),
        ("redis", "redis@sha256:" + "a" * 64, "redis:7.2.16"),
        ("postgres", "postgres:18.1", "registry.example/ours:stable"),
    ],
)
def test_an_engine_whose_volume_the_image_can_read_or_may_be_able_to_is_allowed(name: str, there: str, wanted: str) -> None:
    assert found(engine(name, image=wanted), running(name, there)) == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("postgres:17.11-bookworm", (17, 11)),
        ("postgres:17", (17,)),
        ("rabbitmq:4.3.5-management@sha256:" + "a" * 64, (4, 3, 5)),
        ("redis:7.2.16@sha256:" + "a" * 64, (7, 2, 16)),
        ("registry.example:5000/team/redis:v8.0.2", (8, 0, 2)),
        ("registry.example:5000/team/redis", None),
        ("redis@sha256:" + "1" * 64, None),
        ("ours:2024-11-24", None),
        ("ours:17abc", None),
        ("ours:20241124", None),
        ("ours:latest", None),
    ],
)
def test_a_version_is_read_from_a_tag_that_begins_with_one(image: str, expected: tuple[int, ...] | None) -> None:
    assert version(image) == expected


# All at once


def test_all_problems_are_said_at_once_each_with_its_key_and_the_file() -> None:
    wanted = Wanted(
        namespace="groundwork-dev",
        storage_class="fixed",
        rotation=1,
        engines={
            "postgres": WantedEngine(1, 1, "postgres:18.1"),
            "redis": WantedEngine(1, 2, "redis:6.2.1"),
            "rabbitmq": WantedEngine(1, 4, "rabbitmq:4.3.5"),
            "consul": WantedEngine(1, 4, "hashicorp/consul:1.22.7"),
        },
    )
    said = found(wanted)
    assert [problem.split(" ")[0] for problem in said] == [
        "settings.rotation",
        "settings.cluster.storage_class",
        "settings.postgres.storage_gib",
        "settings.redis.storage_gib",
        "settings.consul.servers",
        "settings.images.postgres",
        "settings.images.redis",
    ]
    assert all("Pulumi.dev.yaml" in problem for problem in said)


def test_an_engine_that_the_stack_no_longer_has_is_not_compared() -> None:
    assert found(replace(WANTED, engines={})) == []


# Guesses


@pytest.mark.parametrize("setting", ["issuer", "api_server_cidrs", "network_plugin"])
def test_a_stack_that_runs_is_not_changed_to_a_guess(setting: str) -> None:
    (problem,) = found(facts=replace(THERE, guessed=(setting,)))
    assert problem.startswith(f"settings.cluster.{setting} is not set in Pulumi.dev.yaml, and you may not ask the cluster for it")


def test_what_the_stack_file_says_is_no_guess() -> None:
    assert found(replace(WANTED, given=frozenset({"issuer"})), replace(THERE, guessed=("issuer",))) == []


def test_a_new_stack_may_begin_with_a_guess() -> None:
    assert found(facts=replace(NOTHING, guessed=("issuer",))) == []


# The authority


def signed_by(authority: str, trusted: str) -> ClusterFacts:
    there = NamespaceFacts(OURS, terminating=False, annotations={"groundwork/authority": authority, "groundwork/trusted": trusted})
    return replace(THERE, namespace=there)


@pytest.mark.parametrize(
    ("authority", "trusted", "before"),
    [(1, (1, 2), ("1", "1")), (2, (1, 2), ("1", "1,2")), (2, (2,), ("2", "1,2")), (2, (2,), ("2", "2")), (1, (1,), ("1", "1,2"))],
    ids=["trust the next one", "let it sign", "trust it alone", "as it is", "think again"],
)
def test_each_step_of_replacing_an_authority_is_taken(authority: int, trusted: tuple[int, ...], before: tuple[str, str]) -> None:
    assert found(replace(WANTED, authority=authority, trusted=trusted), signed_by(*before)) == []


def test_an_authority_that_was_not_trusted_before_may_not_sign() -> None:
    (problem,) = found(replace(WANTED, authority=2, trusted=(1, 2)), signed_by("1", "1"))
    assert problem.startswith("settings.certificates.authority = 2 in Pulumi.dev.yaml: clients trust 1 until now")


def test_the_signer_stays_trusted_in_the_step_that_replaces_it() -> None:
    (problem,) = found(replace(WANTED, authority=2, trusted=(2,)), signed_by("1", "1,2"))
    assert "leaves out 1, which signed what servers show" in problem


def test_a_namespace_that_says_nothing_is_signed_by_the_first_authority() -> None:
    assert len(found(replace(WANTED, authority=2, trusted=(2,)))) == 2
