"""The platform runs once for all e2e tests, as a stack of their own. Without a cluster the whole tier is skipped, and says so."""

# pyright: basic
# (the Kubernetes client is untyped)

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kubernetes import client

from groundwork.platform_outputs import parse
from tests.e2e import names, stack
from tests.e2e.cluster import Platform
from tests.e2e.names import Address, Forwards
from tests.e2e.stack import Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the sandbox itself are skipped on another cluster, each with its reason."""
    if stack.CONTEXT is not None:
        for item in items:
            if (marker := item.get_closest_marker("sandbox")) is not None:
                item.add_marker(pytest.mark.skip(f"needs the sandbox, E2E_CONTEXT is {stack.CONTEXT}: {marker.args[0]}"))


@pytest.fixture(scope="session")
def under_test() -> Stack:
    """The stack that E2E_CONTEXT and E2E_STACK ask for."""
    found = stack.under_test()
    if (missing := found.missing()) is not None:
        if stack.CONTEXT is not None:
            pytest.fail(missing)  # somebody asked for this cluster: to skip it would look like success
        pytest.skip(missing)
    return found


@pytest.fixture(scope="session")
def platform(under_test: Stack) -> Platform:
    """The stack, up. test_zz_destroy.py takes it down; an interrupted run's leftovers are taken over."""
    under_test.up()
    return Platform(parse(under_test.outputs()), under_test)


@pytest.fixture(scope="session")
def where(platform: Platform) -> Iterator[Callable[[str, int], Address | None]]:
    """What a name of the stack's Services leads to from this machine."""
    if platform.stack.context is None:
        yield names.cluster_ips(platform.core, platform.namespace)
        return
    kubectl = ("kubectl", "--context", platform.stack.context)
    forwards = Forwards(platform.core, client.DiscoveryV1Api(platform.api), platform.namespace, kubectl)
    yield forwards
    forwards.close()


@pytest.fixture(autouse=True)
def use_names(where: Callable[[str, int], Address | None]) -> Iterator[None]:
    """Every test reaches the stack's services by the names that they have in the cluster."""
    with names.resolved(where):
        yield


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
