"""One line of the benchmark's table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """`ours` and `peer` in `unit`, measured in the same run; `ratio` is what `target` speaks of, `holds` whether it is met."""

    name: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    target: str
    holds: bool
