"""When a failed request may be sent again: so many attempts, after a pause, and never so often that retries are what keeps a service down."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from groundwork.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` for one request, the first one included. `pause`: at most so many seconds before the second, twice as many before the third.

    `share`: how many retries the requests of this process may cost, as a share of them; `reserve`: how many more at once, while requests
    are few.
    """

    attempts: int = 2
    pause: float = 0.05
    share: float = 0.2
    reserve: int = 10

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.pause < 0 or not 0 <= self.share <= 1 or self.reserve < 0:
            raise InvalidRequest(f"{self}: need attempts >= 1, pause >= 0, share between 0 and 1 and reserve >= 0")

    def pause_before(self, attempt: int, random: Random) -> float:
        """Seconds before the attempt of that number, the first being 1; any up to the longest, so that callers do not come back together."""
        return random.random() * self.pause * 2.0 ** (attempt - 2)


DEFAULT_RETRIES: Final = Retries()


class RetryBudget:
    """The retries that are left: every request adds its share, every retry takes one."""

    def __init__(self, retries: Retries) -> None:
        self._share = retries.share
        self._most = float(max(retries.reserve, 1 if retries.share else 0))
        self._left = float(retries.reserve)

    def earn(self) -> None:
        """A request is sent for the first time."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Take a retry; False where none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def status_of(answer: object) -> int | None:
    """The HTTP status that an answer, or an error of a client, carries: aiohttp's `status`, httpx's `status_code`; None where it has none."""
    carrier = getattr(answer, "response", None)
    carrier = answer if carrier is None else carrier
    for name in ("status", "status_code"):
        status = getattr(carrier, name, None)
        if isinstance(status, int):
            return status
    return None
