"""The table of what runs where, and the commands to try."""

from __future__ import annotations

import datetime as dt

import pytest

from sandbox import cluster, status, up
from sandbox.cluster import Pod
from sandbox.status import MIB, Row

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


def item(
    name: str = "redis-0",
    *,
    ready: bool = True,
    phase: str = "Running",
    started: str = "2026-03-01T11:59:00Z",
    waiting: dict[str, str] | None = None,
    deleted: bool = False,
) -> dict[str, object]:
    """A Pod of the API."""
    state: dict[str, object] = {"waiting": waiting} if waiting else {"running": {"startedAt": started}}
    return {
        "metadata": {
            "namespace": "groundwork-sandbox",
            "name": name,
            "labels": {"app.kubernetes.io/name": name.rpartition("-")[0]},
            **({"deletionTimestamp": started} if deleted else {}),
        },
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "redis", "restartCount": 2, "state": state}],
        },
    }


def pod(name: str = "redis-0", **changes: object) -> Pod:
    return cluster.parse_pod(item(name, **changes))  # type: ignore[arg-type]


def service(name: str, ports: list[dict[str, object]], address: str = "10.96.0.7") -> dict[str, object]:
    return {"metadata": {"namespace": "groundwork-sandbox", "name": name}, "spec": {"clusterIP": address, "ports": ports}}


def test_a_pod_is_read_with_its_workload_restarts_and_start() -> None:
    found = pod()
    assert (found.workload, found.ready, found.restarts, found.finished) == ("redis", True, 2, False)
    assert found.started == dt.datetime(2026, 3, 1, 11, 59, tzinfo=dt.UTC)


def test_a_pod_that_is_not_well_says_why() -> None:
    found = pod(ready=False, waiting={"reason": "ImagePullBackOff", "message": "no such image"})
    assert found.note == "redis: ImagePullBackOff no such image"
    assert found.started is None


def test_a_node_that_is_not_ready_says_why() -> None:
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert cluster.node_problem(ready) is None
    sick = {"status": {"conditions": [{"type": "Ready", "status": "False", "message": "no network"}]}}
    assert cluster.node_problem(sick) == "no network"
    assert cluster.node_problem({}) == "the kubelet has not registered the node yet"


@pytest.mark.parametrize(
    ("pods", "waits_for"),
    [
        ([pod()], None),
        ([pod(ready=False, waiting={"reason": "ContainerCreating"})], "redis-0 (redis: ContainerCreating)"),
        ([pod(started="2026-03-01T11:00:00Z")], "redis-0 (starting again)"),
        ([pod(phase="Succeeded", ready=False)], None),
        ([pod(phase="Failed", ready=False)], None),
        ([pod(deleted=True, ready=False)], None),
    ],
)
def test_up_waits_for_pods_that_run_since_this_start_of_the_node(pods: list[Pod], waits_for: str | None) -> None:
    assert up.unready(pods, since=dt.datetime(2026, 3, 1, 11, 30, tzinfo=dt.UTC)) == waits_for


def test_a_service_is_shown_as_this_machine_reaches_it() -> None:
    ports: list[dict[str, object]] = [{"name": "http", "port": 8000}, {"name": "https", "port": 8501}, {"name": "tls-redis", "port": 6379}]
    assert status.addresses(service("x", ports)) == ("http://10.96.0.7:8000", "https://10.96.0.7:8501", "10.96.0.7:6379")
    assert status.addresses(service("x", ports, address="None")) == ()


def test_pods_of_a_workload_make_one_row_with_their_memory() -> None:
    pods = [pod("redis-0"), pod("redis-1", ready=False), pod("redis-2", deleted=True)]
    memory = {("groundwork-sandbox", "redis-0"): 10 * MIB, ("groundwork-sandbox", "redis-1"): 5 * MIB}
    (row,) = status.rows(pods, [service("redis", [{"name": "tls-redis", "port": 6379}])], memory)
    assert (row.ready, row.pods, row.memory, row.addresses) == (1, 2, 15 * MIB, ("10.96.0.7:6379",))


def test_the_systems_own_pods_are_no_rows() -> None:
    system = item()
    system["metadata"] = {"namespace": "local-path-storage", "name": "helper"}
    assert status.rows([cluster.parse_pod(system)], [], {}) == ()


def row(name: str, *addresses: str, namespace: str = "groundwork-sandbox") -> Row:
    return Row(namespace, name, 1, 1, 0, MIB, addresses, "")


def test_three_commands_to_try_use_addresses_of_the_asked_stack() -> None:
    found = [
        row("user-service", "http://10.96.1.1:8000"),
        row("document-service", "http://10.96.1.2:8000"),
        row("user-service", "http://10.96.9.9:8000", namespace="groundwork-sandbox-e2e"),
    ]
    commands = status.try_commands({"namespace": "groundwork-sandbox"}, found)
    assert len(commands) == 3
    assert "http://10.96.1.1:8000/api/v1/users" in commands[2]
    assert "http://10.96.1.2:8000/api/v1/documents" in commands[2]
    assert "10.96.9.9" not in "".join(commands)


def test_a_stack_without_the_demo_still_has_a_command_to_try() -> None:
    assert status.try_commands({"namespace": "n"}, []) == ('eval "$(.venv/bin/python -m sandbox env)" && kubectl --namespace n get pods',)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert status.table([("a", "long"), ("bbb", "x")], ("N", "V")) == "N    V\na    long\nbbb  x"


@pytest.mark.parametrize(("size", "text"), [(5 * MIB, "5 MiB"), (1536 * MIB, "1.50 GiB")])
def test_sizes_read_well(size: int, text: str) -> None:
    assert status.mib(size) == text


def test_a_jobs_pod_is_neither_waited_for_nor_shown() -> None:
    job = item("redis-accounts-1", ready=False)
    job["metadata"] = {"namespace": "n", "name": "x", "ownerReferences": [{"kind": "Job"}]}
    found = cluster.parse_pod(job)
    assert up.unready([found], since=NOW) is None
    assert status.rows([found], [], {}) == ()
