"""What a part says of itself before it is registered: its pods, who it talks to, what it needs of a namespace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.lib.contracts import Edge, Workload
from components.lib.workload import Resources


@dataclass(frozen=True)
class PodShape:
    """Equal pods of a workload. `pods` is the most of them that exist at a time, those of a rolling update and those that end included.

    Kubernetes counts for a pod the sum of its containers, or its largest init container where that is more.
    """

    containers: tuple[Resources, ...]
    pods: int
    init_containers: tuple[Resources, ...] = ()
    claims: int = 0
    claim_gib: int = 0

    def sum(self, field: str) -> int:
        """What all the pods have together of one field of Resources."""
        running = sum(int(getattr(resources, field)) for resources in self.containers)
        starting = max((int(getattr(resources, field)) for resources in self.init_containers), default=0)
        return self.pods * max(running, starting)


@dataclass(frozen=True)
class Demand:
    """What pods need of a namespace at most: the terms of a ResourceQuota and of a LimitRange."""

    shapes: tuple[PodShape, ...] = ()

    def __add__(self, other: Demand) -> Demand:
        return Demand((*self.shapes, *other.shapes))

    def sum(self, field: str) -> int:
        """What all pods have together of one field of Resources."""
        return sum(shape.sum(field) for shape in self.shapes)

    def largest(self, field: str) -> int:
        """The most that one container has of one field of Resources."""
        return max(int(getattr(r, field)) for shape in self.shapes for r in (*shape.containers, *shape.init_containers))

    @property
    def pods(self) -> int:
        """How many pods exist at a time at most."""
        return sum(shape.pods for shape in self.shapes)

    @property
    def claims(self) -> int:
        """How many volumes there are."""
        return sum(shape.claims for shape in self.shapes)

    @property
    def storage_gib(self) -> int:
        """The size of all volumes together."""
        return sum(shape.claims * shape.claim_gib for shape in self.shapes)


@dataclass(frozen=True)
class Description:
    """One part. `workloads` are all that it runs: an edge that ends at a workload that no part runs is a mistake."""

    workloads: tuple[Workload, ...]
    edges: tuple[Edge, ...] = ()
    demand: Demand = Demand()


class UnknownWorkload(ValueError):
    """An edge ends at a workload that no part runs: its policies would be for nobody."""


def together(parts: Iterable[Description]) -> Description:
    """All parts as one. Raises UnknownWorkload for an edge that ends nowhere."""
    each = tuple(parts)
    whole = Description(
        tuple(workload for part in each for workload in part.workloads),
        tuple(edge for part in each for edge in part.edges),
        sum((part.demand for part in each), start=Demand()),
    )
    known = set(whole.workloads)
    for edge in whole.edges:
        for end in (edge.client, edge.server):
            if isinstance(end, Workload) and end not in known:
                there = ", ".join(sorted(f"{workload.namespace}/{workload.name}" for workload in known))
                raise UnknownWorkload(f"an edge ends at {end.namespace}/{end.name}, which no part runs; there are: {there}")
    return whole
