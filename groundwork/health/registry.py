"""Runs the checks in the background and keeps what they found, so that a probe costs a dictionary lookup and no dependency call."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from groundwork.health.model import Check, CheckFailed, CheckResult, Closable, Finding, Report, State, Status, component_type, worst
from groundwork.metrics import Metrics
from groundwork.supervision import Supervisor, Work

LIVE, READY, STARTED = "live", "ready", "started"
GROUPS = frozenset({READY, STARTED})  # nothing outside the process decides whether it lives
_WINDOW = 3  # results that are looked at
_MAJORITY = 2  # of them decide
_SOON = 1.0  # seconds
_CODES = {Status.PASS: 0, Status.WARN: 1, Status.FAIL: 2}

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Watched:
    check: Check
    groups: frozenset[str]
    critical: bool
    timeout: float
    ttl: float
    history: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    result: CheckResult | None = None
    work: Work | None = None
    passed_once: bool = False
    stuck: set[asyncio.Task[str]] = field(default_factory=set[asyncio.Task[str]])

    @property
    def failing_status(self) -> Status:
        return Status.FAIL if self.critical else Status.WARN

    def status(self) -> Status:
        """What the check counts as now; before its first result nobody knows, so it counts as failing."""
        return self.failing_status if self.result is None else self.result.status

    def judge(self, *, good: bool) -> Status:
        """Two of the last three decide, so that one lost packet does not unready a pod. Until it passed once, one good result is enough."""
        self.history.append(good)
        majority_good = sum(self.history) >= _MAJORITY
        majority_bad = len(self.history) - sum(self.history) >= _MAJORITY
        passing = self.passed_once and self.status() is Status.PASS
        passing = not majority_bad if passing else majority_good or (good and not self.passed_once)
        self.passed_once |= passing
        return Status.PASS if passing else self.failing_status

    def pause(self) -> float:
        """Seconds until the next look: soon while something is wrong, so that a recovery is seen soon."""
        well = self.status() is Status.PASS and self.history[-1]
        return (self.ttl if well else min(self.ttl, _SOON)) * random.uniform(0.9, 1.1)  # noqa: S311 - spreads the replicas' checks, no secret


class HealthRegistry:
    """The health of one process.

    `add` a check, `start`, then ask `live`, `ready`, `started` or `details` as often as you like. Use `mark_ready`, `mark_draining`
    and `mark_broken` as the process goes through its life.
    """

    def __init__(self, *, service: str, version: str = "", metrics: Metrics | None = None, supervisor: Supervisor | None = None) -> None:
        self.service = service
        self.version = version
        self.state = State.STARTING
        self._metrics = metrics
        self._supervisor = supervisor or Supervisor(registry=(metrics or Metrics()).registry)
        self._watched: dict[str, _Watched] = {}
        self._looks: dict[str, Callable[[], Finding]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._running = False
        self._last_ready: Status | None = None

    def add(self, check: Check, *, groups: Collection[str] = (READY,), critical: bool = True, timeout: float = 1.0, ttl: float = 5.0) -> None:
        """Watch `check`: every `ttl` seconds, at most `timeout` seconds long. A critical one fails its groups, another one only warns.

        Raises ValueError for a group that does not exist, a name that is taken, or times that are not positive.
        """
        if unknown := set(groups) - GROUPS:
            raise ValueError(f"groups: {sorted(unknown)} do not exist; use {sorted(GROUPS)} (a check of something outside never decides liveness)")
        if check.name in self._watched:
            raise ValueError(f"check {check.name!r} exists already: give it another name")
        if timeout <= 0 or ttl <= 0:
            raise ValueError(f"check {check.name!r}: timeout and ttl must be positive, got {timeout} and {ttl}")
        watched = self._watched[check.name] = _Watched(check, frozenset(groups), critical, timeout, ttl)
        if self._running:
            self._launch(watched)

    def notice(self, name: str, text: str) -> None:
        """A lasting warning about the process itself, such as that registrations are kept in memory only."""
        self.observe(name, lambda: Finding(Status.WARN, text))

    def observe(self, name: str, look: Callable[[], Finding]) -> None:
        """Ask `look` about the process itself whenever health is asked: it must not wait for anything. Call `refresh` when it has news."""
        self._looks[name] = look

    def refresh(self) -> None:
        """Tell those who listen, if readiness is another one now."""
        self._notify()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever readiness changes."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to run the checks. Must be called inside a running event loop."""
        self._running = True
        for watched in self._watched.values():
            if watched.work is None:
                self._launch(watched)

    async def stop(self) -> None:
        """Stop all checks and give back their connections."""
        self._running = False
        works = [watched.work for watched in self._watched.values() if watched.work is not None]
        stuck = [task for watched in self._watched.values() for task in watched.stuck]
        for ending in (*works, *stuck):
            ending.stop() if isinstance(ending, Work) else ending.cancel()
        tasks = [*stuck, *(work.task for work in works if work.task is not None)]
        await asyncio.wait(tasks, timeout=1.0) if tasks else None
        for watched in self._watched.values():
            watched.work = None
            await _close(watched.check)

    def mark_ready(self) -> None:
        """The process has started. It stays unready once it drains or is broken."""
        if self.state is State.STARTING:
            self._enter(State.READY)

    def mark_draining(self) -> None:
        """The process is about to stop: unready from now on."""
        self._enter(State.DRAINING)

    def mark_broken(self) -> None:
        """The process cannot recover by itself: not alive, so that it is restarted."""
        self._enter(State.BROKEN)

    def live(self) -> Report:
        """Fails only where a restart would help. Looks at nothing outside the process."""
        return Report(Status.FAIL if self.state is State.BROKEN else Status.PASS, self.state, {})

    def started(self) -> Report:
        """Passes once the process has started, and from then on."""
        starting = self.state in {State.STARTING, State.BROKEN}
        return self._report(STARTED, Status.FAIL if starting else Status.PASS)

    def ready(self) -> Report:
        """Passes or warns while the process can do its work."""
        able = self.state is State.READY and all(found.status is not Status.FAIL for found in self._findings().values())
        return self._report(READY, Status.PASS if able else Status.FAIL)

    def details(self) -> Report:
        """Readiness, together with every check whatever its group and everything that the process says about itself."""
        ready = self.ready()
        checks = {name: w.result for name, w in self._watched.items() if w.result is not None}
        now = _now()
        findings = self._findings()
        for name, found in findings.items():
            if found.status is not Status.PASS:
                checks[name] = CheckResult(name, "component", found.status, found.text, 0.0, now)
        return Report(worst(ready.status, *(found.status for found in findings.values())), self.state, checks)

    def _findings(self) -> dict[str, Finding]:
        return {name: _looked(look) for name, look in self._looks.items()}

    def _report(self, group: str, own: Status) -> Report:
        members = [w for w in self._watched.values() if group in w.groups]
        return Report(worst(own, *(w.status() for w in members)), self.state, {})

    def _enter(self, state: State) -> None:
        if self.state is not State.BROKEN:
            self.state = state
            self._notify()

    def _notify(self) -> None:
        status = self.ready().status
        if status is self._last_ready:
            return
        log.info("readiness changed", status=status.value, state=self.state.value)
        self._last_ready = status
        for listener in self._listeners:
            listener()

    def _launch(self, watched: _Watched) -> None:
        watched.work = self._supervisor.start(lambda: self._watch(watched), name=f"health:{watched.check.name}")

    async def _watch(self, watched: _Watched) -> None:
        while True:
            await self._observe(watched)
            await asyncio.sleep(watched.pause())

    async def _observe(self, watched: _Watched) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        run = loop.create_task(_run(watched.check), name=f"health:{watched.check.name}:run")
        try:
            done, _ = await asyncio.wait({run}, timeout=watched.timeout)
        except asyncio.CancelledError:
            run.cancel()
            raise
        if not done:
            run.cancel()  # not waited for: a check that swallows its cancellation must not delay the verdict
            watched.stuck.add(run)
            run.add_done_callback(watched.stuck.discard)
        output = "timeout" if not done else "cancelled" if run.cancelled() else run.result()
        self._record(watched, output, (loop.time() - begin) * 1000)

    def _record(self, watched: _Watched, output: str, elapsed_ms: float) -> None:
        name = watched.check.name
        before = None if watched.result is None else watched.result.status
        status = watched.judge(good=not output)
        shown = "" if status is Status.PASS else output or "recovering"
        watched.result = CheckResult(name, component_type(watched.check), status, shown, round(elapsed_ms, 1), _now())
        if self._metrics is not None:
            self._metrics.health_check_status.labels(check=name).set(_CODES[status])
        if status is not before:
            log.info("health check changed", check=name, status=status.value, output=shown)
        self._notify()


async def _run(check: Check) -> str:
    """Empty when the check passed, else what may be said about its failure: never a driver's words, which may hold a password."""
    try:
        await check.run()
    except asyncio.CancelledError:
        raise
    except CheckFailed as error:
        return str(error) or "failed"
    except BaseException as error:
        return type(error).__name__
    return ""


def _looked(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # health answers whatever a part of the process has come to
        return Finding(Status.WARN, type(error).__name__)


async def _close(check: Check) -> None:
    if not isinstance(check, Closable):
        return
    try:
        async with asyncio.timeout(1.0):
            await check.close()
    except Exception as error:
        log.debug("health check did not close", check=check.name, error=type(error).__name__)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
