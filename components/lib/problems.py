"""Arguments that cannot work: a component says all that is wrong with them, not the first thing."""

from __future__ import annotations

from collections.abc import Iterable


class BadArguments(ValueError):
    """What is wrong with a component's arguments: each problem names the field, its value and the fix."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def refuse(problems: Iterable[str]) -> None:
    """Raises BadArguments if there is a problem."""
    if found := tuple(problems):
        raise BadArguments(found)
