"""What the sandbox asks Kubernetes, through kubectl."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import environment, pki
from sandbox.errors import SandboxError
from sandbox.paths import Paths


@dataclass(frozen=True)
class Pod:
    """A pod as `status` shows it. `started` is when its youngest running container started, None while one is not running.

    `finished`: it has ended, or is a Job's and will. `leaving`: it was asked to end. `workload` is its `app.kubernetes.io/name`, or its
    own name. `note` is the reason that Kubernetes gives for a pod that is not well.
    """

    namespace: str
    name: str
    workload: str
    ready: bool
    finished: bool
    leaving: bool
    restarts: int
    started: dt.datetime | None
    note: str


class Kubectl:
    """kubectl with the sandbox's kubeconfig, and nothing of the user's."""

    def __init__(self, binary: Path, paths: Paths) -> None:
        self._binary = binary
        self._paths = paths

    def argv(self, *words: str) -> list[str]:
        """The command line for `words`."""
        return [str(self._binary), f"--kubeconfig={self._paths.kubeconfig}", "--request-timeout=20s", *words]

    def text(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl prints.

        Raises SandboxError with what it complains about.
        """
        done = self._run(*words, stdin=stdin)
        if done.returncode != 0:
            raise SandboxError(
                f"kubectl {' '.join(words)}: {done.stderr.strip() or 'failed'}", fix="see `make status`; `make down` and `make up` restart the node"
            )
        return done.stdout

    def json(self, *words: str) -> dict[str, object]:
        """An object that kubectl prints as JSON."""
        return json.loads(self.text(*words, "--output=json"))

    def apply(self, objects: Sequence[Mapping[str, object]]) -> None:
        """Applies `objects` server-side, as the field manager `sandbox`."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.text("apply", "--server-side", "--force-conflicts", "--field-manager=sandbox", "--filename=-", stdin=document)

    def delete(self, objects: Sequence[Mapping[str, object]]) -> None:
        """Deletes `objects`, named by kind and metadata, and waits until they are gone. Those that are not there do not matter."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.text("delete", "--ignore-not-found", "--wait", "--timeout=100s", "--request-timeout=100s", "--filename=-", stdin=document)

    def api_problem(self) -> str | None:
        """Why the API server is not ready, None where it is."""
        done = self._run("get", "--raw", "/readyz")
        return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no answer"])[-1][:150]

    def node_problem(self) -> str | None:
        """Why the node is not ready, None where it is."""
        try:
            return node_problem(self.json("get", "node", pki.NODE_NAME))
        except SandboxError as error:
            return str(error)[:150]

    def _run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environ = environment.without_proxies()
        return subprocess.run(self.argv(*words), input=stdin, env=environ, capture_output=True, text=True, timeout=120, check=False)

    def pods(self, namespace: str | None = None) -> tuple[Pod, ...]:
        """The pods of `namespace`, or all."""
        where = ["--all-namespaces"] if namespace is None else [f"--namespace={namespace}"]
        items = self.json("get", "pods", *where)["items"]
        assert isinstance(items, list)
        return tuple(parse_pod(item) for item in items)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]

    def images(self) -> frozenset[str]:
        """The images that workloads of the cluster name, running or not."""
        kinds = "pods,deployments.apps,statefulsets.apps,jobs.batch,cronjobs.batch"
        return frozenset(self.text("get", kinds, "--all-namespaces", "--output=jsonpath={..image}").split())


def node_problem(node: Mapping[str, object]) -> str | None:
    """Why a Node object is not ready, None where it is."""
    status = _mapping(node.get("status"))
    for condition in _list(status.get("conditions")):
        if condition.get("type") == "Ready":
            return None if condition.get("status") == "True" else str(condition.get("message", "not ready"))[:150]
    return "the kubelet has not registered the node yet"


def parse_pod(item: Mapping[str, object]) -> Pod:
    """A Pod object of the API."""
    metadata, status = _mapping(item.get("metadata")), _mapping(item.get("status"))
    containers = _list(status.get("containerStatuses"))
    running = [_mapping(_mapping(container.get("state")).get("running")).get("startedAt") for container in containers]
    starts = [dt.datetime.fromisoformat(str(start)) for start in running if start]
    labels, owners = _mapping(metadata.get("labels")), _list(metadata.get("ownerReferences"))
    conditions = {str(condition.get("type")): condition for condition in _list(status.get("conditions"))}
    ready = conditions.get("Ready", {}).get("status") == "True"
    return Pod(
        namespace=str(metadata.get("namespace")),
        name=str(metadata.get("name")),
        workload=str(labels.get("app.kubernetes.io/name") or metadata.get("name")),
        ready=ready,
        # A failed pod stays as it is: its controller makes another one. A Job's is waited for by the engine.
        finished=status.get("phase") in {"Succeeded", "Failed"} or any(owner.get("kind") == "Job" for owner in owners),
        leaving="deletionTimestamp" in metadata,
        restarts=sum(int(str(container.get("restartCount", 0))) for container in containers),
        started=max(starts) if starts and len(starts) == len(containers) else None,
        note="" if ready else _reason(status, conditions),
    )


def _reason(status: Mapping[str, object], conditions: Mapping[str, Mapping[str, object]]) -> str:
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in _list(status.get(key)):
            waiting = _mapping(_mapping(container.get("state")).get("waiting"))
            if waiting.get("reason"):
                return f"{container.get('name')}: {waiting['reason']} {str(waiting.get('message', ''))[:100]}".strip()
    for name in ("PodScheduled", "ContainersReady"):
        condition = conditions.get(name, {})
        if condition.get("status") == "False":
            return f"{condition.get('reason', name)} {str(condition.get('message', ''))[:100]}".strip()
    return str(status.get("phase", ""))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _list(value: object) -> list[Mapping[str, object]]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
