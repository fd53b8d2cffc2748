"""The platform runs once for all e2e tests, as stack `sandbox-e2e`. Without a running sandbox the whole tier is skipped, and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from stacks import outputs
from tests.e2e import cluster
from tests.e2e.cluster import SETTINGS, STACK, Platform


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The running sandbox's kubeconfig."""
    found = cluster.kubeconfig()
    if found is None:
        pytest.skip("no sandbox is running: the e2e tier needs `make up`")
    return found


@pytest.fixture(autouse=True)
def names(platform: Platform) -> Iterator[None]:
    """Every test reaches the stack's services by the names that they have in the cluster."""
    with platform.names():
        yield


def stack_outputs() -> dict[str, object]:
    """The outputs of the test stack, from the engine's state."""
    done = subprocess.run(
        ["bash", "-c", f'eval "$({sys.executable} -m sandbox env)" && pulumi stack output --json --stack {STACK}'],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def platform(kubeconfig: str) -> Platform:
    """Stack `sandbox-e2e`, up. test_zz_destroy.py takes it down; an interrupted run's leftovers are taken over."""
    cluster.sandbox("up", "--stack", STACK, *SETTINGS)
    return Platform(outputs.parse(stack_outputs()), kubeconfig)


FIGURES: list[str] = []


@pytest.fixture(scope="session")
def figures() -> Callable[[str], None]:
    """Takes a line of what was measured on the way, to be shown at the end of the run. Nothing passes or fails by it."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("measured on the running platform")
        for line in FIGURES:
            terminalreporter.write_line(line)
