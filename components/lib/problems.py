"""Arguments that cannot work: a component says all that is wrong with them, not the first thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that cannot work. `key` is the field, dotted from the component's own name where it has one; `what` is wrong, and the fix.

    `client` is the one of an engine's clients that it is about.
    """

    key: str
    what: str
    value: object = None
    client: str | None = None

    def __str__(self) -> str:
        return f"{self.key}: {self.what}" if self.value is None else f"{self.key} is {self.value}: {self.what}"


class BadArguments(ValueError):
    """What is wrong with a component's arguments: each problem names the field, its value and the fix."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def refuse(problems: Iterable[Problem]) -> None:
    """Raises BadArguments if there is a problem."""
    if found := tuple(problems):
        raise BadArguments(found)
