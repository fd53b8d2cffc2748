"""Accounts by generation: each rotation has logins of its own, so that those of the one before work until nobody uses them any more.

A login is `<client>.<generation>`. Accounts from before there were generations are named like the client itself: they count as generation 0.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from app.accounts.errors import Late


@dataclass(frozen=True)
class Login:
    """Whose login it is, and of which generation."""

    client: str
    generation: int

    @classmethod
    def parse(cls, name: str) -> Login:
        """The parts of an account's name."""
        client, dot, number = name.rpartition(".")
        if dot and number.isascii() and number.isdigit():
            return cls(client, int(number))
        return cls(name, 0)


def obsolete(name: str, declared: Collection[str], generation: int) -> bool:
    """Whether an account of ours is to go in generation `generation`: one that is not declared, unless a newer generation made it."""
    return name not in declared and Login.parse(name).generation <= generation


def refuse_late(engine: str, generation: int, seen: int) -> None:
    """Raises Late where the engine has `seen` a newer generation than `generation`."""
    if generation < seen:
        raise Late(
            f"generation {generation} is late, {engine} has seen generation {seen} already: nothing was changed "
            f"(if `rotation` was set back, set it to {seen + 1}: an older one cannot come again)"
        )
