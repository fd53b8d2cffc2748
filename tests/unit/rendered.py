"""The shipped stacks as they are recorded, and their pods, whatever makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from components.lib import labels
from stacks.plan import planned
from stacks.platform import Built
from stacks.stackfile import read
from tests.unit.recording import Graph, Registered

SHIPPED = ("dev", "prod", "sandbox")
WORKLOADS = ("StatefulSet", "Deployment", "Job", "CronJob")


@cache
def shipped(stack: str) -> tuple[Graph, Built]:
    """A shipped stack's graph, made once for all tests: it is only read."""
    return planned(stack, read(stack))


@dataclass(frozen=True)
class Pod:
    """A pod template and the object that makes pods of it."""

    resource: Registered
    kind: str
    name: str
    namespace: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def replicas(self) -> int:
        return int(self.resource["spec"].get("replicas", 1))

    def __str__(self) -> str:
        return f"{self.kind} {self.resource.name}"


def pods(graph: Graph) -> Iterator[Pod]:
    """Every pod template of the stack."""
    for kind in WORKLOADS:
        for resource in graph.of_type(kind):
            template = resource["spec.jobTemplate.spec.template" if kind == "CronJob" else "spec.template"]
            marks = template["metadata"]["labels"]
            yield Pod(resource, kind, marks[labels.NAME], resource["metadata.namespace"], marks, template["spec"])


def containers(pod: Pod) -> list[dict[str, Any]]:
    """All containers of a pod, those that run before the others included."""
    return [*pod.spec.get("initContainers", []), *pod.spec["containers"]]


def before(graph: Graph, resource: Registered) -> set[str]:
    """The URNs of what is registered before a resource: what it depends on itself, and what its component does."""
    parents = [component.dependencies for component in graph.components() if component.urn == resource.parent]
    return {*resource.dependencies, *(urn for dependencies in parents for urn in dependencies)}
