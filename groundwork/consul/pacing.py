"""How often a watch may ask, and how long it waits after a failure. Pure arithmetic on a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from groundwork.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """Times in seconds. Rule numbers are those of the watch loop.

    `wait`: how long a blocking query waits (3). `burst`, `interval`, `slowest`: requests at once, then one per interval, slowing down to
    `slowest` under lasting change (4). `backoff_*`: bounds of the pause after failures (6). `max_stale`: how far behind the leader an emptier
    answer may be (8). `linger`: how long an unused watch stays (9). `start_jitter`: spread of the first reads after a start (9).
    """

    wait: float = 60.0
    burst: int = 2
    interval: float = 0.5
    slowest: float = 0.5
    backoff_min: float = 0.25
    backoff_max: float = 60.0
    max_stale: float = 10.0
    linger: float = 60.0
    start_jitter: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.wait <= 600:
            raise InvalidRequest(f"wait is {self.wait} s: Consul waits between 0 and 600 s")
        if self.burst < 1 or self.interval <= 0 or self.slowest < self.interval:
            raise InvalidRequest(f"burst {self.burst}, interval {self.interval}, slowest {self.slowest}: need >= 1, > 0 and >= interval")
        if not 0 < self.backoff_min <= self.backoff_max:
            raise InvalidRequest(f"backoff from {self.backoff_min} to {self.backoff_max} s: need 0 < min <= max")


DISCOVERY = WatchOptions()
CONFIG = WatchOptions(interval=1.0, slowest=15.0)


class TokenBucket:
    """Lets `burst` requests pass at once and then one per interval. The interval doubles while requests must wait and recovers when they need not."""

    def __init__(self, options: WatchOptions, now: float) -> None:
        self._options = options
        self._interval = options.interval
        self._tokens = float(options.burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take a token and return how many seconds to wait before using it."""
        ahead = max(0.0, self._at - now)  # tokens until then are given away
        if ahead == 0.0:
            self._tokens = min(float(self._options.burst), self._tokens + (now - self._at) / self._interval)
            self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            self._interval = max(self._options.interval, self._interval / 2)
            return ahead
        delay = ahead + (1 - self._tokens) * self._interval
        self._tokens = 0.0
        self._at = now + delay
        self._interval = min(self._options.slowest, self._interval * 2)
        return delay


def backoff(failures: int, options: WatchOptions, random: Random) -> float:
    """Full jitter: somewhere between the minimum and twice as much per failure, so that clients do not come back together."""
    ceiling = min(options.backoff_max, options.backoff_min * 2.0 ** min(failures, 32))
    return random.uniform(options.backoff_min, ceiling)
