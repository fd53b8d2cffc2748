"""Whose fault it is when a back end calls a request invalid."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from groundwork.errors import BackendRefused, InvalidRequest, NotFound


@contextmanager
def ours() -> Generator[None]:
    """What the back end calls invalid or missing in here is the platform's fault, never that of whoever asked the platform.

    Raises BackendRefused instead.
    """
    try:
        yield
    except (InvalidRequest, NotFound) as error:
        raise BackendRefused(str(error)) from error
