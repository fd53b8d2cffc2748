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
        lambda c: c["groundwork:settings"]["images"].update(runtime="registry.example/x", build={"repository": "registry.example/x"}),
        "runtime and build are both set",
    ),
    "a pull secret in plain text": (lambda c: c["groundwork:settings"]["images"].update(pull_secret="s3cret"), "stands there in plain text"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_is_changed(platform: Platform, case: str, tmp_path: Path) -> None:
    change, message = CASES[case]
    document = copy.deepcopy(yaml.safe_load(platform.stack.config_file.read_text()))
    change(document["config"])
    bad = tmp_path / f"Pulumi.{STACK}.yaml"
    bad.write_text(yaml.safe_dump(document))
    before = generation(platform)

    done = platform.stack.pulumi("up", "--cwd", str(REPO), "--yes", "--skip-preview", "--config-file", str(bad), "--color", "never")

    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert message in said
    assert "Traceback" not in said
    assert "s3cret" not in said
    assert generation(platform) == before


def generation(platform: Platform) -> dict[str, int | None]:
    """The generation of every Deployment and StatefulSet: it counts changes."""
    items = [
        *platform.apps.list_namespaced_deployment(platform.namespace).items,
        *platform.apps.list_namespaced_stateful_set(platform.namespace).items,
    ]
    return {str(item.metadata.name): item.metadata.generation for item in items if item.metadata}
