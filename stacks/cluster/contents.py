"""What of a stack is in the cluster already, from the answers of the API server. Pure."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Iterable

from kubernetes.utils.quantity import parse_quantity  # pyright: ignore[reportUnknownVariableType] its parameter has no type
from pydantic import SecretStr

from components.lib.labels import ROTATION
from stacks.cluster.answers import ClaimObject, Job, Namespace, Secret, StatefulSet, StorageClassObject
from stacks.cluster.facts import Claim, NamespaceFacts, StatefulSetFacts, StorageClass, UnusableCluster

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
GIB = 1024**3


def storage_classes(found: Iterable[StorageClassObject]) -> tuple[StorageClass, ...]:
    """The storage classes, by name."""
    classes = [
        StorageClass(
            name=each.metadata.name,
            expandable=each.allow_volume_expansion,
            default=each.metadata.annotations.get(DEFAULT_CLASS) == "true",
            provisioner=each.provisioner,
        )
        for each in found
    ]
    return tuple(sorted(classes, key=lambda each: each.name))


def namespace_facts(found: Namespace) -> NamespaceFacts:
    """Whose it is, and whether it goes."""
    going = found.status.phase == "Terminating" or found.metadata.deletion_timestamp is not None
    return NamespaceFacts(labels=found.metadata.labels, terminating=going, annotations=found.metadata.annotations)


def rotation(found: Namespace) -> int | None:
    """The generation of credentials that the namespace has seen. Raises UnusableCluster where the annotation is no number."""
    text = found.metadata.annotations.get(ROTATION)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        name = found.metadata.name
        raise UnusableCluster(
            f"annotation {ROTATION} of namespace {name} is {text!r}, which is no number: somebody changed it. "
            f"Set it to what settings.rotation was last: kubectl annotate --overwrite namespace {name} {ROTATION}=NUMBER"
        ) from None


def claims(found: Iterable[ClaimObject]) -> dict[str, Claim]:
    """The claims, by name. Raises UnusableCluster for a size that is no quantity."""
    return {
        each.metadata.name: Claim(gib=gib(each.spec.resources.requests.storage), storage_class=each.spec.storage_class_name or None) for each in found
    }


def gib(quantity: str) -> int:
    """A quantity such as 8Gi or 1500Mi in GiB, rounded up. Raises UnusableCluster."""
    try:
        return math.ceil(parse_quantity(quantity) / GIB)
    except ValueError:
        raise UnusableCluster(f"a volume claim asks for {quantity!r}, which is no size that Kubernetes knows") from None


def stateful_sets(found: Iterable[StatefulSet]) -> dict[str, StatefulSetFacts]:
    """The StatefulSets, by name."""
    facts: dict[str, StatefulSetFacts] = {}
    for each in found:
        named = next((template.spec.storage_class_name for template in each.spec.volume_claim_templates), "")
        facts[each.metadata.name] = StatefulSetFacts(each.spec.replicas, each.spec.template.image, named or None)
    return facts


def done_jobs(found: Iterable[Job]) -> dict[str, str]:
    """The image of each Job that succeeded, by the Job's name."""
    return {each.metadata.name: each.spec.template.image for each in found if each.succeeded}


def kept(found: Iterable[Secret]) -> dict[str, dict[str, SecretStr]]:
    """The values of the Secrets, by name and key. Raises UnusableCluster for one that is no text, without repeating it."""
    return {each.metadata.name: {key: _text(each.metadata.name, key, value) for key, value in each.data.items()} for each in found}


def _text(secret: str, key: str, value: SecretStr) -> SecretStr:
    try:
        return SecretStr(b64decode(value.get_secret_value(), validate=True).decode())
    except ValueError:
        raise UnusableCluster(
            f"key {key} of the kept Secret {secret} is no text: somebody changed it. Restore the Secret from a copy; "
            "it holds what opens the volumes that were kept"
        ) from None
