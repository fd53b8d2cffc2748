"""The running platform as the e2e tests see it."""

# pyright: basic, reportOptionalMemberAccess=false, reportArgumentType=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import httpx2
from kubernetes import client, config

from groundwork.platform_outputs import PlatformOutputs
from tests.e2e.stack import Stack

T = TypeVar("T")


def eventually(what: str, probe: Callable[[], T | None], *, seconds: float = 60, pause: float = 0.25) -> T:
    """The first answer of `probe`, asked every `pause` seconds, that is not None. `seconds` is the promise under test, or a generous deadline."""
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            found = probe()
        except (OSError, httpx2.HTTPError, client.ApiException, AssertionError) as error:
            last, found = error, None
        if found is not None:
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds} s" + (f"; last: {last!r}" if last else ""))


@dataclass(frozen=True)
class Platform:
    """A stack that is up."""

    outputs: PlatformOutputs
    stack: Stack

    @property
    def namespace(self) -> str:
        """Where everything of the stack lives."""
        return self.outputs.namespace

    @cached_property
    def api(self) -> client.ApiClient:
        """The API server."""
        file = self.stack.kubeconfig
        return config.new_client_from_config(config_file=None if file is None else str(file), context=self.stack.context)

    @cached_property
    def core(self) -> client.CoreV1Api:
        """Pods, Secrets, Services."""
        return client.CoreV1Api(self.api)

    @cached_property
    def apps(self) -> client.AppsV1Api:
        """Deployments and StatefulSets."""
        return client.AppsV1Api(self.api)

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's values."""
        data = cast("dict[str, str]", self.core.read_namespaced_secret(name, self.namespace).data)
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def credential(self, engine: str, service: str) -> dict[str, str]:
        """What a service authenticates with."""
        return self.secret(self.outputs.secrets[engine][service])

    def service_account_token(self, account: str, *, audience: str = "groundwork") -> str:
        """A token as the kubelet projects it into the pods of `account`."""
        request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[audience], expiration_seconds=600))
        return str(self.core.create_namespaced_service_account_token(account, self.namespace, request).status.token)

    def all_pods(self, name: str) -> list[client.V1Pod]:
        """The pods of a workload, those that are on their way out among them."""
        return self.core.list_namespaced_pod(self.namespace, label_selector=f"app.kubernetes.io/name={name}").items

    def pods(self, name: str) -> list[client.V1Pod]:
        """The live pods of a workload."""
        return [pod for pod in self.all_pods(name) if pod.metadata.deletion_timestamp is None]

    def all_ready(self, name: str) -> bool:
        """Whether the workload has pods and all of them are ready."""
        pods = self.pods(name)
        return bool(pods) and all(any(c.type == "Ready" and c.status == "True" for c in (pod.status.conditions or [])) for pod in pods)

    def replaced(self, name: str, before: set[str]) -> bool:
        """Whether the workload is ready and none of its live pods is one of `before`, by uid."""
        return self.all_ready(name) and not before & self.uids(name)

    def uids(self, name: str) -> set[str]:
        """Who the live pods of a workload are."""
        return {str(pod.metadata.uid) for pod in self.pods(name)}

    def kill(self, name: str) -> None:
        """Kills the workload's pods at once, with no time to say goodbye."""
        for pod in self.pods(name):
            self.core.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)

    def ca_file(self) -> str:
        """The stack's CA as a file."""
        file = Path(tempfile.gettempdir()) / f"groundwork-{os.getuid()}-{self.stack.name}-ca.crt"
        file.write_text(self.outputs.ca.pem)
        return str(file)

    def http(self, service: str) -> httpx2.Client:
        """A client of one of the stack's HTTP services."""
        return httpx2.Client(base_url=self.outputs.services[service], timeout=10)
