"""From a pod's start to Ready, for each service of the running sandbox. Without a sandbox it measures nothing and says so."""

# pyright: basic, reportOptionalMemberAccess=false, reportOptionalIterable=false, reportOptionalSubscript=false, reportOperatorIssue=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import subprocess

from kubernetes import client, config

from bench.noop import shell
from bench.result import Result

NAMESPACE = "groundwork-sandbox"
PROMISE_SECONDS = 30.0
SERVICES = ("registry", "config", "user-service", "document-service")


def seconds(pod: client.V1Pod) -> float:
    """From the start of the pod's container to the moment it became ready for the last time."""
    ready = next(condition for condition in pod.status.conditions if condition.type == "Ready")
    return (ready.last_transition_time - pod.status.container_statuses[0].state.running.started_at).total_seconds()


def run() -> list[Result]:
    """One line for each service: the slowest of its pods that never restarted."""
    try:
        kubeconfig = shell('printf %s "$KUBECONFIG" && kubectl get --raw /readyz >/dev/null')
    except subprocess.CalledProcessError:
        print("startup: skipped, no sandbox is running (make up)")
        return []
    core = client.CoreV1Api(config.new_client_from_config(config_file=kubeconfig))
    results: list[Result] = []
    for name in SERVICES:
        pods = core.list_namespaced_pod(NAMESPACE, label_selector=f"app.kubernetes.io/name={name}").items
        took = max((seconds(pod) for pod in pods if pod.status.container_statuses[0].restart_count == 0), default=None)
        if took is not None:
            results.append(
                Result(
                    name=f"{name}: start to Ready",
                    ours=took,
                    peer=PROMISE_SECONDS,
                    peer_name="what the platform promises",
                    unit="s",
                    ratio=took / PROMISE_SECONDS,
                    target="<= 30 s",
                    holds=took <= PROMISE_SECONDS,
                )
            )
    return results
