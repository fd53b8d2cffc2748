"""Runs a rendered configuration outside of a pod: only paths, ports and addresses are the test's."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from tests.app.processes import Server


def moved(text: str, places: Mapping[str, object]) -> str:
    """`text` with the pod's paths, ports and addresses replaced by the test's. A place that is not in it is an error of the test."""
    for place, here in places.items():
        assert place in text, f"{place} is not in the configuration"
        text = text.replace(place, str(here))
    return text


@contextmanager
def started(server: Server) -> Generator[None]:
    """The server runs."""
    try:
        server.start()
        yield
    finally:
        server.close()
