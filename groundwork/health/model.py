"""The words of health. Statuses and the body's shape follow draft-inadarei-api-health-check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable


class Status(StrEnum):
    """`pass` and `warn` answer 200, `fail` answers 503."""

    PASS = "pass"  # noqa: S105 - the word of the draft, not a password
    WARN = "warn"
    FAIL = "fail"


_SEVERITY = {Status.PASS: 0, Status.WARN: 1, Status.FAIL: 2}


def worst(*statuses: Status) -> Status:
    """The worst of them; pass where there is none."""
    return max(statuses, key=_SEVERITY.__getitem__, default=Status.PASS)


class State(StrEnum):
    """Where the process is in its life. It is ready only while `READY`, alive unless `BROKEN`."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    BROKEN = "broken"


class CheckFailed(Exception):
    """A check's own words about what is wrong. They are shown to whoever may see details, so they never quote an error of a driver."""


class Check(Protocol):
    """One dependency, asked over a connection of the check's own.

    `run` returns when all is well, raises CheckFailed with words of its own or any other exception, of which only the class is shown.
    It is cancelled at its deadline and then runs again: it must not reuse a connection whose call was cancelled.
    """

    @property
    def name(self) -> str:
        """Short and fixed, such as `postgres`."""
        ...

    async def run(self) -> None:
        """Ask once."""
        ...


@runtime_checkable
class Typed(Protocol):
    """A check that says what it asks; others are a `component`."""

    @property
    def component_type(self) -> str:
        """`datastore`, `component` or `system`."""
        ...


@runtime_checkable
class Closable(Protocol):
    """A check that holds something, such as a connection."""

    async def close(self) -> None:
        """Give it back."""
        ...


def component_type(check: Check) -> str:
    """What kind of thing the check asks."""
    return check.component_type if isinstance(check, Typed) else "component"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the process says about itself: `fail` makes it unready, `warn` is shown to whoever may see details, `pass` is silent.

    The text changes with the state only.
    """

    status: Status
    text: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found last. `status` is after hysteresis, `output` a class or the check's own words, empty while it passes."""

    name: str
    component_type: str
    status: Status
    output: str
    response_ms: float
    observed_at: str


@dataclass(frozen=True, slots=True)
class Report:
    """An answer about one group of checks."""

    status: Status
    state: State
    checks: Mapping[str, CheckResult]

    @property
    def http_status(self) -> int:
        """What a probe gets."""
        return 503 if self.status is Status.FAIL else 200
