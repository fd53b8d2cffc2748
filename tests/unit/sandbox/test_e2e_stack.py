"""The stack file that the e2e tier makes for a cluster that is not the sandbox."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sandbox.stackfile import SETTINGS
from stacks import stackfile
from tests.e2e import stack

IMAGE = f"registry.example/groundwork@sha256:{0:064x}"


def made(environment: dict[str, str], *words: str) -> dict[str, Any]:
    document = stack.settings_of(environment, "theirs", words)
    return cast("dict[str, dict[str, dict[str, Any]]]", document)["config"][SETTINGS]


def test_it_is_the_tracked_stack_file_on_the_asked_context() -> None:
    found = made({})
    assert found["cluster"] == {"context": "theirs"}
    assert set(found["services"]) == {"user-service", "document-service"}
    assert found["registry"] == {"replicas": 2}


def test_an_image_that_is_there_is_not_built() -> None:
    images = made({"E2E_RUNTIME_IMAGE": IMAGE})["images"]
    assert (images["runtime"], images.get("build")) == (IMAGE, None)


def test_the_environment_may_say_everything_and_the_test_has_the_last_word() -> None:
    environment = {
        "E2E_STORAGE_CLASS": "fast",
        "E2E_SETTINGS": "images.redis=registry.example/redis:8 rotation=2 'cluster.operator_cidrs=[10.0.0.0/8]'",
    }
    found = made(environment, "rotation=3")
    assert found["cluster"] == {"context": "theirs", "storage_class": "fast", "operator_cidrs": ["10.0.0.0/8"]}
    assert found["images"]["redis"] == "registry.example/redis:8"
    assert found["rotation"] == 3


@pytest.mark.parametrize("environment", [{}, {"E2E_RUNTIME_IMAGE": IMAGE}])
def test_the_platform_takes_it(environment: dict[str, str]) -> None:
    assert stackfile.parse(made(environment), "sandbox-e2e").cluster.context == "theirs"
