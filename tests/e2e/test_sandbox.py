"""The sandbox keeps to itself: what it refuses, and what it says of the stacks that it runs."""

# pyright: basic
# (the Kubernetes client is untyped)

from __future__ import annotations

import subprocess
import sys

import pytest
from kubernetes import client

from sandbox.paths import REPO
from tests.e2e.cluster import Platform

pytestmark = pytest.mark.sandbox("it is about the sandbox")


def test_the_namespace_of_a_stack_that_is_none_of_the_sandboxs_is_refused(platform: Platform) -> None:
    labels = {"app.kubernetes.io/part-of": "groundwork", "app.kubernetes.io/instance": "dev"}
    foreign = client.V1Namespace(metadata=client.V1ObjectMeta(name="groundwork-dev", labels=labels))
    with pytest.raises(client.ApiException, match="stack dev is none of the sandbox"):
        platform.core.create_namespace(foreign, dry_run="All")


def test_a_namespace_of_somebody_else_is_not_refused(platform: Platform) -> None:
    for labels in (None, {"app.kubernetes.io/part-of": "another", "app.kubernetes.io/instance": "dev"}):
        platform.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="e2e-other", labels=labels)), dry_run="All")


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_sandboxs_engine_knows_no_stack_of_the_users_own(platform: Platform, stack: str) -> None:
    done = platform.stack.run("pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--stack", stack, "--cwd", str(REPO))
    assert done.returncode != 0
    assert f"no stack named '{stack}' found" in done.stderr


def test_status_says_how_long_each_servers_certificate_lasts(platform: Platform) -> None:
    done = subprocess.run([sys.executable, "-m", "sandbox", "status"], capture_output=True, text=True, timeout=120, check=True)
    rows = {tuple(line.split()[:2]): line.split()[2] for line in done.stdout.splitlines() if line.startswith(platform.namespace)}
    for name in ("groundwork-ca", "postgres-tls", "redis-tls", "rabbitmq-tls", "consul-tls"):
        assert int(rows[platform.namespace, name]) >= 59, name
    assert "the node" in done.stdout
