"""The real engine on a stack file that cannot work: one clear message, and nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.paths import REPO
from tests.e2e.cluster import Platform
from tests.e2e.stack import STACK

Change = Callable[[dict[str, Any]], object]
CASES: dict[str, tuple[Change, str]] = {
    "an unknown key": (
        lambda c: c["groundwork:settings"].update(postgress={}),
        f"settings.postgress in Pulumi.{STACK}.yaml: no such key (did you mean postgres?)",
    ),
    "an unknown key beside the settings": (
        lambda c: c.update({"groundwork:namespace": "x"}),
        f"groundwork:namespace in Pulumi.{STACK}.yaml: no such key",
    ),
    "a wrong type": (lambda c: c["groundwork:settings"].update(rotation="two"), f"settings.rotation = 'two' in Pulumi.{STACK}.yaml"),
    "no context": (lambda c: c["groundwork:settings"]["cluster"].pop("context"), f"settings.cluster.context in Pulumi.{STACK}.yaml: is missing"),
    "a context that is not there": (lambda c: c["groundwork:settings"]["cluster"].update(context="nowhere"), "no such context"),
    "settings that contradict": (
        lambda c: c["groundwork:settings"]["images"].update(
            runtime=f"registry.example/x@sha256:{'0' * 64}", build={"repository": "registry.example/x"}
        ),
        "runtime and build are both set",
    ),
    "a pull secret in plain text": (lambda c: c["groundwork:settings"]["images"].update(pull_secret="s3cret"), "stands there in plain text"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_is_changed(platform: Platform, case: str, tmp_path: Path) -> None:
    change, message = CASES[case]
    document = copy.deepcopy(yaml.safe_load(platform.stack.config_file.read_text()))
    change(document["config"])
    assert message in refused(platform, document, tmp_path)


def several(settings: dict[str, Any]) -> None:
    """One mistake of each sort: a name that is taken, an engine that is too small, a port, a type, a secret."""
    settings["services"]["admin"] = {"command": ["-m", "x"], "uses": ["postgres", "postgres"]}
    settings.setdefault("redis", {})["resources"] = {"memory_mib": 32}
    settings["services"]["user-service"]["port"] = 9000
    settings["rotation"] = "two"
    settings["images"]["pull_secret"] = "s3cret"


def test_all_that_is_wrong_is_told_at_once(platform: Platform, tmp_path: Path) -> None:
    document = copy.deepcopy(yaml.safe_load(platform.stack.config_file.read_text()))
    several(document["config"]["groundwork:settings"])
    said = refused(platform, document, tmp_path)
    file = f"in Pulumi.{STACK}.yaml: "
    for told in (
        f"settings.rotation = 'two' {file}",
        f"settings.services.admin {file}the platform has a part of this name",
        f"settings.services.admin.uses {file}names postgres 2 times",
        f"settings.services.user-service.port = 9000 {file}",
        f"settings.redis.resources.memory_mib = 32 {file}redis needs at least 64",
        f"settings.images.pull_secret {file}stands there in plain text",
    ):
        assert told in said


def refused(platform: Platform, document: object, folder: Path) -> str:
    """What the engine says of a stack file that cannot work. Nothing is changed, and no secret is repeated."""
    bad = folder / f"Pulumi.{STACK}.yaml"
    bad.write_text(yaml.safe_dump(document))
    before = generation(platform)
    done = platform.stack.pulumi("up", "--cwd", str(REPO), "--yes", "--skip-preview", "--config-file", str(bad), "--color", "never")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in said
    assert "s3cret" not in said
    assert generation(platform) == before
    return said


def generation(platform: Platform) -> dict[str, int | None]:
    """The generation of every Deployment and StatefulSet: it counts changes."""
    items = [
        *platform.apps.list_namespaced_deployment(platform.namespace).items,
        *platform.apps.list_namespaced_stateful_set(platform.namespace).items,
    ]
    return {str(item.metadata.name): item.metadata.generation for item in items if item.metadata}
