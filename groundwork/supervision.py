"""Background work that cannot die unseen: whatever ends it is logged, counted and shown in health; then it begins again, or ends the process.

A supervisor has no task of its own that could die: the end of a task calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Final, Self
from weakref import WeakKeyDictionary

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

Make = Callable[[], Coroutine[object, object, None]]

CLOSE_SECONDS: Final = 5.0  # for work to end after it was told to
log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds before work begins again: `first`, doubled with each failure up to `longest`. Work that ran for `settled` begins with `first` anew."""

    first: float = 0.25
    longest: float = 30.0
    settled: float = 60.0

    def after(self, failures: int, random: Random) -> float:
        """The pause after so many failures in a row; jittered, so that processes that failed together do not come back together."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 32)) * random.uniform(0.5, 1.0)


DEFAULT_PAUSES: Final = Pauses()


class SupervisionMetrics:
    """Failures and outages by kind of work: what stands before the colon in its name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter("background_failures", "Times that background work ended although it should run", ("task",), registry=registry)
        self.down = Gauge("background_down", "Background work that does not run now although it should", ("task",), registry=registry)


_by_registry: WeakKeyDictionary[CollectorRegistry, SupervisionMetrics] = WeakKeyDictionary()


def supervision_metrics(registry: CollectorRegistry = REGISTRY) -> SupervisionMetrics:
    """The metrics of `registry`, made at the first call."""
    found = _by_registry.get(registry)
    if found is None:
        found = _by_registry[registry] = SupervisionMetrics(registry)
    return found


class Supervisor:
    """Keeps work going until it is told to stop. `on_fatal` is called when work fails without which the process cannot go on."""

    def __init__(self, *, registry: CollectorRegistry = REGISTRY, pauses: Pauses = DEFAULT_PAUSES, random: Random | None = None) -> None:
        self.pauses = pauses
        self.metrics = supervision_metrics(registry)
        self.random = random or SystemRandom()
        self._works: set[Work] = set()
        self._on_fatal: list[Callable[[], None]] = []

    def start(self, make: Make, *, name: str, endless: bool = True, fatal: bool = False) -> Work:
        """Run what `make` makes, in a task of the running loop, and again after a pause whenever it ends.

        `endless` False: it may end by itself, and then is done. `fatal`: it is not run again; its failure is the process's. `name` is
        `kind` or `kind:detail`, and the kind is a metric's label.
        """
        work = Work(self, make, name, endless=endless, fatal=fatal)
        self._works.add(work)
        work.begin()
        return work

    def on_fatal(self, listener: Callable[[], None]) -> None:
        """Call `listener` when fatal work has failed."""
        self._on_fatal.append(listener)

    def fatal(self) -> None:
        """Called by work that was fatal."""
        for listener in self._on_fatal:
            listener()

    def forget(self, work: Work) -> None:
        """Called by work that is done."""
        self._works.discard(work)

    @property
    def works(self) -> tuple[Work, ...]:
        """Everything that should run now."""
        return tuple(self._works)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Work that is down or has failed lately, each with the kind of its last failure. The text only changes with the state."""
        return tuple(sorted(f"{work.name}: {work.reason}" for work in self._works if work.troubled))

    async def aclose(self) -> None:
        """Stop all work and wait for its end, a few seconds at most."""
        works = self.works
        for work in works:
            work.stop()
        await asyncio.gather(*(work.aclose() for work in works))


class Work:
    """Something that a supervisor keeps going. `stop` or `aclose` ends it, and so does the end of an `async with` block."""

    def __init__(self, supervisor: Supervisor, make: Make, name: str, *, endless: bool, fatal: bool) -> None:
        self.name = name
        self.failures = 0  # in a row
        self.reason = ""
        self._supervisor = supervisor
        self._make = make
        self._endless = endless
        self._fatal = fatal
        self._stopped = self._done = False
        self._down = False
        self._began = self._failed_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that does it now; None while it pauses or when it is done."""
        return self._task

    @property
    def done(self) -> bool:
        """Whether it has ended for good."""
        return self._done

    @property
    def troubled(self) -> bool:
        """Whether it is down, or has failed so lately that it may do so again."""
        if not self.failures:
            return False
        return self._down or asyncio.get_running_loop().time() - self._failed_at < self._supervisor.pauses.settled

    def begin(self) -> None:
        """Called by the supervisor and by the timer of a pause."""
        loop = asyncio.get_running_loop()
        self._again, self._began = None, loop.time()
        self._mark(down=False)
        try:
            coroutine = self._make()
        except Exception as error:  # it is what makes the work that fails
            self._failed(type(error).__name__, error)
            return
        self._task = loop.create_task(coroutine, name=self.name)
        self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Do not run it again and cancel it, unless it is itself that calls: then it returns when it likes."""
        self._stopped = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._task is None:
            self._finish()
        elif self._task is not _current():
            self._task.cancel()

    async def aclose(self) -> None:
        """The same, and wait for its end, a few seconds at most."""
        self.stop()
        task = self._task
        if task is not None and task is not _current():
            _, alive = await asyncio.wait({task}, timeout=CLOSE_SECONDS)
            if alive:
                log.error("background work does not end", task=self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if self._stopped or (error is None and not task.cancelled() and not self._endless):
            if error is not None:
                log.warning("background work failed as it was stopped", task=self.name, error=type(error).__name__)
            self._finish()
            return
        self._failed("cancelled" if task.cancelled() else "ended" if error is None else type(error).__name__, error)

    def _failed(self, reason: str, error: BaseException | None) -> None:
        loop, supervisor = asyncio.get_running_loop(), self._supervisor
        now, pauses = loop.time(), supervisor.pauses
        self.failures = 1 if now - self._began >= pauses.settled else self.failures + 1
        self.reason, self._failed_at = reason, now
        self._mark(down=True)
        supervisor.metrics.failures.labels(self._kind).inc()
        if self._fatal:
            log.error("background work failed, and the process with it", task=self.name, reason=reason, exc_info=error)
            supervisor.fatal()
            return
        pause = pauses.after(self.failures, supervisor.random)
        log.error("background work failed", task=self.name, reason=reason, again_in=round(pause, 3), exc_info=error)
        self._again = loop.call_later(pause, self.begin)

    def _finish(self) -> None:
        self._done = True
        self._mark(down=False)
        self._supervisor.forget(self)

    def _mark(self, *, down: bool) -> None:
        if down is not self._down:
            self._down = down
            self._supervisor.metrics.down.labels(self._kind).inc(1 if down else -1)

    @property
    def _kind(self) -> str:
        return self.name.partition(":")[0]


def _current() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None
