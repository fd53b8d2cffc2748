"""A stack that runs is changed: services come, grow, shrink and go, and the namespace's quota is never in the way."""

# pyright: basic, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from components.quota import OBJECT_NAME, hard
from stacks import stackfile
from stacks.cluster.facts import assumed
from stacks.cluster.headroom import quantity
from stacks.plan import planned
from tests.e2e import stack
from tests.e2e.cluster import Platform, eventually

BALLAST = "services.ballast"
COMMAND = f"{BALLAST}.command=[-m, demo.user_service]"
USES = f"{BALLAST}.uses=[postgres]"


def expected(platform: Platform) -> dict[str, str]:
    """The quota that follows from the stack file as it is now."""
    raw = yaml.safe_load(platform.stack.config_file.read_text())["config"]["groundwork:settings"]
    settings = stackfile.parse(raw, platform.stack.name)
    return hard(planned(platform.stack.name, settings, assumed())[1].demand)


def quota_is_exact(platform: Platform) -> bool:
    """Whether the namespace allows what the stack needs and no more."""
    there = platform.core.read_namespaced_resource_quota(OBJECT_NAME, platform.namespace).spec.hard
    wanted = expected(platform)
    return there.keys() == wanted.keys() and all(quantity(there[key]) == quantity(value) for key, value in wanted.items())


def runs(platform: Platform, name: str, *, pods: int, memory: str) -> bool:
    """Whether the workload is ready with so many pods of that memory."""
    found = platform.pods(name)
    limits = {container.resources.limits["memory"] for pod in found for container in pod.spec.containers}
    return len(found) == pods and limits == {memory} and platform.all_ready(name)


def test_services_come_grow_shrink_and_go_and_the_quota_follows(platform: Platform) -> None:
    # A service comes that is larger than all that was there.
    platform.stack.up(COMMAND, USES, f"{BALLAST}.replicas=4", f"{BALLAST}.resources.memory_mib=512")
    assert runs(platform, "ballast", pods=4, memory="512Mi")
    assert quota_is_exact(platform)

    # It shrinks to a quarter: its new pods come while the old ones are still there, under a quota that is lowered last.
    platform.stack.up(COMMAND, USES, f"{BALLAST}.replicas=4", f"{BALLAST}.resources.memory_mib=128")
    assert runs(platform, "ballast", pods=4, memory="128Mi")
    assert quota_is_exact(platform)

    # It goes, and PostgreSQL's accounts change with it, while its pods still count.
    platform.stack.up()
    eventually("its pods are gone", lambda: not platform.all_pods("ballast") or None)
    assert quota_is_exact(platform)
    stack.succeeded(platform.stack.preview())


def test_everything_rolls_at_once_within_the_quota_and_small_limits_leave_room_for_the_account_jobs(platform: Platform) -> None:
    services = ("registry", "config", "services.user-service", "services.document-service")
    before = {name: platform.uids(name.rpartition(".")[2]) for name in services}

    platform.stack.up(*(f"{name}.resources.cpu_limit_m=400" for name in ("postgres", "redis", "rabbitmq", "consul", *services)))

    for name, uids in before.items():
        assert platform.replaced(name.rpartition(".")[2], uids), name
    assert quota_is_exact(platform)
    platform.stack.up()


@pytest.mark.sandbox("the same cluster under another name needs its kubeconfig")
def test_a_context_of_another_name_is_the_same_cluster(platform: Platform, tmp_path: Path) -> None:
    kubeconfig = yaml.safe_load(Path(str(platform.stack.kubeconfig)).read_text())
    for context in kubeconfig["contexts"]:
        context["name"] = "renamed"
    other = tmp_path / "kubeconfig"
    other.write_text(yaml.safe_dump(kubeconfig | {"current-context": "renamed"}))
    document = yaml.safe_load(platform.stack.config_file.read_text())
    document["config"]["groundwork:settings"]["cluster"]["context"] = "renamed"
    file = tmp_path / f"Pulumi.{platform.stack.name}.yaml"
    file.write_text(yaml.safe_dump(document))

    words = ("--cwd", str(stack.REPO), "--config-file", str(file), "--json")
    done = platform.stack.run(
        "env", f"KUBECONFIG={other}", "pulumi", "preview", "--stack", platform.stack.name, "--non-interactive", *words, timeout=300
    )

    steps = json.loads(stack.succeeded(done).stdout)["steps"]
    changed = {step["urn"].rpartition("::")[2]: step["op"] for step in steps if step["op"] != "same"}
    assert changed in ({}, {"kubernetes": "update"})  # the provider's own entry, which names the context
