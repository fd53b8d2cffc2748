"""What runs where, how much memory it takes, and what to try."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sandbox import certificates, pki, processes
from sandbox.certificates import Certificate
from sandbox.cluster import Kubectl, Pod
from sandbox.node import Node

MIB = 1024**2
SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage", "default")


@dataclass(frozen=True)
class Process:
    """One of the node's processes. Memory in bytes: its proportional share."""

    name: str
    pid: int
    runs: bool
    memory: int


@dataclass(frozen=True)
class Row:
    """One workload of a stack: its pods, and where it is reached from this machine."""

    namespace: str
    name: str
    ready: int
    pods: int
    restarts: int
    memory: int
    addresses: tuple[str, ...]
    note: str


def node_processes(node: Node) -> tuple[Process, ...]:
    """The node's processes and the shims of its containers, as one line."""
    found = [
        Process(name, record.pid, runs := processes.running(record), processes.memory_bytes(record.pid) if runs else 0)
        for name in node.names()
        if (record := node.record(name)) is not None
    ]
    shims = [process.pid for process in processes.every() if "containerd-shim" in process.command and str(node.paths.run) in process.command]
    memory = sum(processes.memory_bytes(pid) for pid in shims)
    return (*found, Process(f"{len(shims)} containerd-shims", 0, runs=True, memory=memory))


def working_sets(kubectl: Kubectl) -> dict[tuple[str, str], int]:
    """The working set of each pod in bytes, by namespace and name, as the kubelet measures it."""
    summary = cast("dict[str, object]", json.loads(kubectl.text("get", "--raw", f"/api/v1/nodes/{pki.NODE_NAME}/proxy/stats/summary")))
    found: dict[tuple[str, str], int] = {}
    for pod in cast("list[dict[str, dict[str, object]]]", summary.get("pods") or []):
        reference = pod["podRef"]
        found[str(reference["namespace"]), str(reference["name"])] = int(str(pod.get("memory", {}).get("workingSetBytes", 0)))
    return found


def addresses(service: Mapping[str, object]) -> tuple[str, ...]:
    """Where a Service is reached from this machine; a headless one has no address."""
    spec = cast("dict[str, object]", service["spec"])
    address = spec.get("clusterIP")
    if address in (None, "", "None"):
        return ()
    found: list[str] = []
    for port in cast("list[dict[str, object]]", spec.get("ports") or []):
        web = port.get("appProtocol") == "http" or str(port.get("name", "")).startswith("http")
        scheme = "https://" if str(port.get("name", "")).startswith("https") else "http://" if web else ""
        found.append(f"{scheme}{address}:{port['port']}")
    return tuple(found)


def rows(pods: Iterable[Pod], services: Iterable[Mapping[str, object]], memory: Mapping[tuple[str, str], int]) -> tuple[Row, ...]:
    """The workloads, by namespace and name. Pods that have finished or are ending are left out."""
    reached: dict[tuple[str, str], list[str]] = {}
    for service in services:
        metadata = cast("dict[str, object]", service["metadata"])
        reached.setdefault((str(metadata["namespace"]), str(metadata["name"])), []).extend(addresses(service))
    grouped: dict[tuple[str, str], list[Pod]] = {}
    for pod in pods:
        if not pod.finished and not pod.leaving and pod.namespace not in SYSTEM_NAMESPACES:
            grouped.setdefault((pod.namespace, pod.workload), []).append(pod)
    return tuple(
        Row(
            namespace=namespace,
            name=name,
            ready=sum(pod.ready for pod in group),
            pods=len(group),
            restarts=sum(pod.restarts for pod in group),
            memory=sum(memory.get((pod.namespace, pod.name), 0) for pod in group),
            addresses=tuple(reached.get((namespace, name), ())),
            note="; ".join(pod.note for pod in group if pod.note),
        )
        for (namespace, name), group in sorted(grouped.items())
    )


def mib(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / MIB:.0f} MiB" if size < 1024 * MIB else f"{size / MIB / 1024:.2f} GiB"


def table(lines: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in [head, *lines])


def platform_table(found: Sequence[Row]) -> str:
    """What runs where."""
    lines = [
        (
            row.namespace,
            row.name,
            f"{row.ready}/{row.pods}",
            str(row.restarts),
            mib(row.memory) if row.memory else "-",
            " ".join(row.addresses) or "-",
            row.note,
        )
        for row in found
    ]
    return table(lines, ("NAMESPACE", "WORKLOAD", "READY", "RESTARTS", "MEMORY", "FROM THIS MACHINE", ""))


def node_table(found: Sequence[Process]) -> str:
    """The node's processes."""
    lines = [
        (process.name, str(process.pid or "-"), "runs" if process.runs else "ENDED: `make up` starts it again", mib(process.memory))
        for process in found
    ]
    return table(lines, ("PROCESS", "PID", "STATE", "MEMORY"))


def certificate_table(found: Iterable[Certificate]) -> str:
    """How long each certificate lasts, and what to do about those that end soon."""
    lines = certificates.lines(found, dt.datetime.now(dt.UTC))
    return table(lines, ("CERTIFICATE OF", "NAME", "DAYS LEFT", "ENDS", ""))


def report(node: Node, kubectl: Kubectl) -> str:
    """All of `status`."""
    running = node_processes(node)
    found, memory = platform_rows(kubectl)
    pods, own = sum(memory.values()), sum(process.memory for process in running)
    secrets = _items(kubectl, "get", "secrets", "--all-namespaces", "--field-selector=type=kubernetes.io/tls")
    published = _items(kubectl, "get", "configmaps", "--all-namespaces", f"--selector={certificates.PLATFORM}")
    lasting = [*certificates.of_node(node.paths.pki), *certificates.of_secrets(secrets), *certificates.of_config_maps(published)]
    return "\n".join(
        (
            node_table(running),
            "",
            platform_table(found) if found else "no stack is up",
            "",
            certificate_table(lasting),
            "",
            f"memory: node {mib(own)} + pods {mib(pods)} = {mib(own + pods)}",
        )
    )


def platform_rows(kubectl: Kubectl) -> tuple[tuple[Row, ...], dict[tuple[str, str], int]]:
    """The workloads of all stacks, and the memory of all pods."""
    memory = working_sets(kubectl)
    return rows(kubectl.pods(), _items(kubectl, "get", "services", "--all-namespaces"), memory), memory


def try_commands(outputs: Mapping[str, object], found: Sequence[Row]) -> tuple[str, ...]:
    """Three commands that show the platform at work; the last one is the demo request. Names of Services become addresses."""
    namespace = str(outputs.get("namespace", ""))
    urls = {row.name: next((a for a in row.addresses if a.startswith("http://")), "") for row in found if row.namespace == namespace}
    first = f'eval "$(.venv/bin/python -m sandbox env)" && kubectl --namespace {namespace} get pods'
    if not urls.get("user-service") or not urls.get("document-service"):
        return (first,)
    users, documents = urls["user-service"], urls["document-service"]
    post = "curl -sS -H 'content-type: application/json'"
    user = """{"name": "Ada", "email": "ada-'$(date +%s)'@example.org"}"""  # another one each time
    author = f"""author=$({post} {users}/api/v1/users -d '{user}' | sed -E 's/.*"id": ?"([^"]+)".*/\\1/')"""
    document = r"{\"title\": \"Hello\", \"body\": \"hello platform\", \"author_id\": \"$author\"}"
    create = f'{post} {documents}/api/v1/documents -d "{document}"'
    find = f"curl -sS '{documents}/api/v1/documents?q=platform'"
    return (first, f"curl -sS {documents}/health; echo", f"{author}; {create}; echo; sleep 1; {find}; echo")


def _items(kubectl: Kubectl, *words: str) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", kubectl.json(*words)["items"])
