"""Names and labels of everything that Groundwork makes. They are immutable on a live StatefulSet or Deployment: change nothing here without an alias.

https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
"""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
from pulumi_kubernetes import meta

from components.lib.contracts import Placement

NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"

KEEP = "groundwork/keep"  # label of Secrets that open a volume: what they hold is used again as long as they are there
ROTATION = "groundwork/rotation"  # annotation of the namespace: the generation of credentials that is in use
AUTHORITY = "groundwork/authority"  # annotations of the namespace: who signs certificates, and whom clients trust
TRUSTED = "groundwork/trusted"
CLUSTER = "groundwork/cluster"  # annotation of the namespace: what Pulumi's provider takes this cluster for
CONTENT_HASH = "groundwork/content-hash"  # pod annotation: pods roll when what they mount changes


def selector(name: str, stack: str) -> dict[str, str]:
    """The labels that pick the pods of one workload of one stack."""
    return {NAME: name, INSTANCE: stack}


def labels(name: str, stack: str) -> dict[str, str]:
    """The labels of every object of a workload."""
    return {**selector(name, stack), PART_OF: "groundwork", MANAGED_BY: "pulumi"}


def metadata(
    object_name: pulumi.Input[str],
    workload: str,
    at: Placement,
    *,
    annotations: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> meta.v1.ObjectMetaArgs:
    """Metadata of the namespaced object `object_name` that belongs to `workload`, with `more` labels."""
    return meta.v1.ObjectMetaArgs(
        name=object_name,
        namespace=at.namespace if at.created is None else at.created,
        labels={**labels(workload, at.stack), **(more or {})},
        annotations=annotations,
    )
