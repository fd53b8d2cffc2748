"""What a change would break is said before it begins: what is wanted against what is there. Pure, all problems at once.

Where the ways around a refusal are longer than a sentence, they stand in docs/operations.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.lib import labels
from stacks.cluster.facts import ClusterFacts, NamespaceFacts

GUIDE = "docs/operations.md"

# A tag begins with a version, as official images have it; a date, a hash or a word says nothing of what is inside.
VERSION = re.compile(r"v?(\d{1,3}(?:\.\d+)*)(?=$|[-+_])")

# Versions that share so many parts read each other's files; without an entry, major and minor.
COMPATIBLE_PARTS = {"postgres": 1}  # https://www.postgresql.org/support/versioning/


@dataclass(frozen=True)
class WantedEngine:
    """An engine as the stack file has it."""

    replicas: int
    storage_gib: int
    image: str


@dataclass(frozen=True)
class Wanted:
    """A stack as its file has it, as far as it can clash with what is there. Engines go by the names of their StatefulSets. `given` are the
    settings of `cluster` that say what otherwise is asked.
    """

    namespace: str
    storage_class: str | None
    rotation: int
    engines: Mapping[str, WantedEngine]
    authority: int = 1
    trusted: tuple[int, ...] = (1,)
    given: frozenset[str] = frozenset()


def problems(stack: str, wanted: Wanted, facts: ClusterFacts) -> list[str]:
    """Everything that forbids to bring `stack` to what is wanted: a sentence each, with the key, the value, what is there, and the fix."""
    stack_file = f"Pulumi.{stack}.yaml"
    misplaced = list(_namespace(stack, stack_file, wanted, facts))
    if misplaced or facts.namespace is None:
        return misplaced  # what is in a namespace that is not ours, or that goes, is nothing to compare with
    return [
        *_guesses(stack_file, wanted, facts),
        *_rotation(stack_file, wanted, facts),
        *_authority(stack_file, wanted, facts.namespace),
        *_storage_class(stack_file, wanted, facts),
        *(problem for name, engine in wanted.engines.items() for problem in _storage(stack_file, name, engine, facts)),
        *_servers(stack_file, wanted, facts),
        *(problem for name, engine in wanted.engines.items() for problem in _version(stack_file, name, engine, facts)),
    ]


def _namespace(stack: str, stack_file: str, wanted: Wanted, facts: ClusterFacts) -> Iterator[str]:
    name = wanted.namespace
    said = f"settings.namespace = {name!r} in {stack_file}"
    fix = f"choose a name of your own, such as groundwork-{stack}: pulumi config set --path settings.namespace groundwork-{stack}"
    if name == "default" or name.startswith(("kube-", "openshift-")):
        yield f"{said}: this namespace belongs to the cluster itself: {fix}"
        return
    there = facts.namespace
    if facts.elsewhere:
        other = facts.elsewhere[0]
        yield (
            f"{said}: stack {stack!r} lives in namespace {other}, and a namespace cannot be renamed: its volumes would stay behind. Go back: "
            f"pulumi config set --path settings.namespace {other}; or move the stack as in {GUIDE}#namespace"
        )
    if there is None:
        return
    if there.terminating:
        yield f"{said}: this namespace is being deleted: wait until it is gone (kubectl wait --for=delete namespace/{name}), then try again"
        return
    owner = there.labels.get(labels.INSTANCE)
    if there.labels.get(labels.PART_OF) != "groundwork":
        yield f"{said}: this namespace is there and was not made by Groundwork, which never takes over what is not its own: {fix}"
    elif owner != stack:
        yield f"{said}: this namespace is there and belongs to stack {owner!r}: {fix}"


def _guesses(stack_file: str, wanted: Wanted, facts: ClusterFacts) -> Iterator[str]:
    """For a new stack a guess may do. One that runs must not be changed to a guess because this time somebody with fewer rights asks."""
    for setting in sorted(set(facts.guessed) - wanted.given):
        yield (
            f"settings.cluster.{setting} is not set in {stack_file}, and you may not ask the cluster for it (the warnings name the right): "
            "the stack runs, and would be changed to a guess. Have the right granted, or say it: "
            f"pulumi config set --path settings.cluster.{setting} VALUE"
        )


def _authority(stack_file: str, wanted: Wanted, there: NamespaceFacts) -> Iterator[str]:
    """An authority is replaced step by step: trusted, then signing, then alone. A step left out would refuse everybody."""
    signer, trusted = there.annotations.get(labels.AUTHORITY, "1"), there.annotations.get(labels.TRUSTED, "1").split(",")
    steps = f"see {GUIDE}#replace-the-authority"
    if str(wanted.authority) not in trusted:
        yield (
            f"settings.certificates.authority = {wanted.authority} in {stack_file}: clients trust {', '.join(trusted)} until now, and would refuse "
            f"what it signs: leave authority at {signer}, add {wanted.authority} to settings.certificates.trusted and run `pulumi up` first, {steps}"
        )
    if str(wanted.authority) != signer and signer not in map(str, wanted.trusted):
        yield (
            f"settings.certificates.trusted = {list(wanted.trusted)} in {stack_file} leaves out {signer}, which signed what servers show until this "
            f"`up` is over: leave {signer} there for one `pulumi up` more, {steps}"
        )


def _rotation(stack_file: str, wanted: Wanted, facts: ClusterFacts) -> Iterator[str]:
    if facts.rotation is not None and wanted.rotation < facts.rotation:
        yield (
            f"settings.rotation = {wanted.rotation} in {stack_file}: the cluster is at {facts.rotation}, and rotation only grows, so that no "
            f"password comes back: pulumi config set --path settings.rotation {facts.rotation}, or more to rotate again"
        )


def _volumes(engine: str, facts: ClusterFacts) -> list[str]:
    """The claims of an engine, in the order of its pods."""
    numbered = {name: re.fullmatch(rf"data-{re.escape(engine)}-(\d+)", name) for name in facts.claims}
    return sorted((name for name, match in numbered.items() if match), key=lambda name: int(name.rpartition("-")[2]))


def _storage_class(stack_file: str, wanted: Wanted, facts: ClusterFacts) -> Iterator[str]:
    elsewhere = [
        name for engine in wanted.engines for name in _volumes(engine, facts) if not _stays(engine, facts.claims[name].storage_class, wanted, facts)
    ]
    if not elsewhere:
        return
    classes = sorted({facts.claims[name].storage_class or "" for name in elsewhere})
    value = "not set" if wanted.storage_class is None else f"= {wanted.storage_class!r}"
    back = f"pulumi config set --path settings.cluster.storage_class {classes[0]}" if classes[0] else "remove the setting"
    yield (
        f"settings.cluster.storage_class {value} in {stack_file}: {_listed(elsewhere)} on class {' and '.join(map(repr, classes))}, and a volume "
        f"cannot move to another class: keep it ({back}), or copy the data to a new stack, see {GUIDE}#storage-class"
    )


def _stays(engine: str, storage_class: str | None, wanted: Wanted, facts: ClusterFacts) -> bool:
    """Whether a volume of `storage_class` is where it should be."""
    if wanted.storage_class is not None:
        return storage_class == wanted.storage_class
    # No class means the cluster's default, also where that was another one when the volume was made. Only a setting that was taken away is a change.
    before = facts.stateful_sets.get(engine)
    named = before.storage_class if before else None
    return named is None or any(each.default and each.name == storage_class for each in facts.storage_classes)


def _storage(stack_file: str, engine: str, wanted: WantedEngine, facts: ClusterFacts) -> Iterator[str]:
    key = f"settings.{engine}.storage_gib"
    said = f"{key} = {wanted.storage_gib} in {stack_file}"
    volumes = {name: facts.claims[name] for name in _volumes(engine, facts)}
    largest = max((claim.gib for claim in volumes.values()), default=0)
    if wanted.storage_gib < largest:
        larger = [name for name, claim in volumes.items() if claim.gib > wanted.storage_gib]
        yield (
            f"{said}: {_listed(larger)} with {largest} GiB, and a volume cannot shrink: pulumi config set --path {key} {largest}, "
            f"or copy the data to a new, smaller engine, see {GUIDE}#storage"
        )
    stuck = [name for name, claim in volumes.items() if claim.gib < wanted.storage_gib and not _expandable(claim.storage_class, facts)]
    if stuck:
        claim = volumes[stuck[0]]
        allow = (
            f"have it allowed, where the driver can: kubectl patch storageclass {claim.storage_class} -p '{{\"allowVolumeExpansion\": true}}'"
            if claim.storage_class
            else "without a class nobody can enlarge it"
        )
        yield (
            f"{said}: {_listed(stuck)} with {claim.gib} GiB on class {claim.storage_class or ''!r}, which cannot grow: {allow}; or go back: "
            f"pulumi config set --path {key} {claim.gib}; or copy the data to a new engine, see {GUIDE}#storage"
        )


def _expandable(storage_class: str | None, facts: ClusterFacts) -> bool:
    """Whether a volume of that class may grow. Where no class can be seen, the API server has the last word."""
    if not facts.storage_classes:
        return storage_class is not None
    return any(each.name == storage_class and each.expandable for each in facts.storage_classes)


def _servers(stack_file: str, wanted: Wanted, facts: ClusterFacts) -> Iterator[str]:
    engine = wanted.engines.get("consul")
    if engine is None:
        return
    before = facts.stateful_sets.get("consul")
    volumes = _volumes("consul", facts)
    servers = before.replicas if before else len(volumes)  # after a destroy that kept the data, the volumes remember the others
    if servers > engine.replicas:
        yield (
            f"settings.consul.servers = {engine.replicas} in {stack_file}: there are {servers}, and those that stay would wait for the rest "
            f"for ever: keep them (pulumi config set --path settings.consul.servers {servers}), or take a `consul snapshot` and let the "
            f"others `consul leave` one by one first, see {GUIDE}#consul-servers"
        )


def version(image: str) -> tuple[int, ...] | None:
    """The version that an image's tag begins with, such as (17, 11) of postgres:17.11-bookworm, or None where it has none."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    match = VERSION.match(tag)
    return tuple(int(part) for part in match[1].split(".")) if match else None


def _version(stack_file: str, engine: str, wanted: WantedEngine, facts: ClusterFacts) -> Iterator[str]:
    before = facts.stateful_sets.get(engine)
    running, next_one = version(before.image) if before else None, version(wanted.image)
    if before is None or running is None or next_one is None:
        return
    said = f"settings.images.{engine} = {wanted.image!r} in {stack_file}: the volume was written by {before.image}"
    if engine == "postgres" and next_one[0] > running[0]:
        yield (
            f"{said}, and PostgreSQL {next_one[0]} starts only after a pg_upgrade of it: keep an image of PostgreSQL {running[0]}, "
            f"or upgrade as in {GUIDE}#postgresql-major"
        )
    parts = min(len(running), len(next_one), COMPATIBLE_PARTS.get(engine, 2))
    if next_one[:parts] < running[:parts]:
        yield (
            f"{said}, which an older version may not be able to read: keep that image or take a newer one, or restore a backup "
            f"into a new engine, see {GUIDE}#downgrade"
        )


def _listed(volumes: list[str]) -> str:
    return f"volume {volumes[0]} is there" if len(volumes) == 1 else f"volumes {', '.join(volumes)} are there"
