"""Background work: no end of it goes unseen, and what can go on goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from random import Random

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from groundwork.supervision import Pauses, Supervisor
from tests.app.health.support import until

QUICK = Pauses(first=0.001, longest=0.01)


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


@pytest_asyncio.fixture
async def supervisor(metrics: CollectorRegistry) -> AsyncGenerator[Supervisor]:
    supervisor = Supervisor(registry=metrics, pauses=QUICK)
    yield supervisor
    await supervisor.aclose()


async def forever() -> None:
    await asyncio.Event().wait()


async def raises() -> None:
    raise ZeroDivisionError


async def returns() -> None:
    pass


async def cancels_itself() -> None:
    raise asyncio.CancelledError


class Failing:
    """Ends the first times as it is told, then works."""

    def __init__(self, first: Callable[[], object], times: int = 1) -> None:
        self.first, self.left, self.runs = first, times, 0

    async def __call__(self) -> None:
        self.runs += 1
        if self.left:
            self.left -= 1
            await self.first()  # pyright: ignore[reportGeneralTypeIssues]
            return
        await forever()


@pytest.mark.parametrize(
    ("ends", "reason"), [(raises, "ZeroDivisionError"), (returns, "ended"), (cancels_itself, "cancelled")], ids=["raises", "returns", "cancelled"]
)
async def test_work_that_ends_in_any_way_is_counted_told_and_begun_again(
    supervisor: Supervisor, metrics: CollectorRegistry, ends: Callable[[], object], reason: str
) -> None:
    work = Failing(ends)
    supervisor.start(work, name="watch:users")
    await until(lambda: work.runs == 2)
    assert supervisor.troubles == (f"watch:users: {reason}",)
    assert metrics.get_sample_value("background_failures_total", {"task": "watch"}) == 1


async def test_work_that_somebody_else_cancels_is_begun_again(supervisor: Supervisor) -> None:
    work = supervisor.start(forever, name="watch")
    assert work.task is not None
    killed = work.task
    killed.cancel()
    await until(lambda: work.task is not None and work.task is not killed)
    assert supervisor.troubles == ("watch: cancelled",)


async def test_work_that_cannot_even_be_made_is_made_again(supervisor: Supervisor) -> None:
    made: list[int] = []

    def make() -> Coroutine[object, object, None]:
        made.append(1)
        if len(made) == 1:
            raise LookupError
        return forever()

    supervisor.start(make, name="watch")
    await until(lambda: len(made) == 2)
    assert supervisor.troubles == ("watch: LookupError",)


async def test_while_it_pauses_it_is_down(metrics: CollectorRegistry) -> None:
    supervisor = Supervisor(registry=metrics, pauses=Pauses(first=3600.0, longest=3600.0))
    supervisor.start(raises, name="watch")
    await until(lambda: metrics.get_sample_value("background_down", {"task": "watch"}) == 1)
    await supervisor.aclose()
    assert metrics.get_sample_value("background_down", {"task": "watch"}) == 0
    assert supervisor.works == ()


async def test_work_that_runs_well_for_long_enough_is_no_trouble(metrics: CollectorRegistry) -> None:
    supervisor = Supervisor(registry=metrics, pauses=Pauses(first=0.001, settled=0.05))
    supervisor.start(Failing(raises), name="watch")
    await until(lambda: bool(supervisor.troubles))
    await until(lambda: not supervisor.troubles)
    await supervisor.aclose()


async def test_work_that_may_end_is_done_when_it_returns(supervisor: Supervisor) -> None:
    supervisor.start(returns, name="once", endless=False)
    await until(lambda: supervisor.works == ())
    assert supervisor.troubles == ()


async def test_fatal_work_is_not_begun_again_and_its_failure_is_told(supervisor: Supervisor) -> None:
    told: list[bool] = []
    supervisor.on_fatal(lambda: told.append(True))
    work = Failing(raises)
    supervisor.start(work, name="worker", fatal=True)
    await until(lambda: bool(told))
    await asyncio.sleep(0.02)
    assert work.runs == 1
    assert supervisor.troubles == ("worker: ZeroDivisionError",)


async def test_stopped_work_stays_stopped(supervisor: Supervisor) -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        await forever()

    async with supervisor.start(work, name="work"):
        await until(lambda: runs == [1])
    await asyncio.sleep(0.02)
    assert (runs, supervisor.works) == ([1], ())


async def test_work_may_stop_itself(supervisor: Supervisor) -> None:
    finished: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0)
        handle.stop()
        await asyncio.sleep(0)  # not cancelled: it returns when it likes
        finished.append(1)

    handle = supervisor.start(work, name="work")
    await until(lambda: supervisor.works == ())
    assert finished == [1]


def test_pauses_double_up_to_the_longest_and_are_spread() -> None:
    pauses, random = Pauses(first=1.0, longest=8.0), Random(1)
    for failures, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (50, 8.0)):
        seen = [pauses.after(failures, random) for _ in range(100)]
        assert most / 2 <= min(seen) < most * 0.6
        assert most * 0.9 < max(seen) <= most


def test_an_event_loop_that_ends_under_it_is_not_held_up() -> None:
    async def main() -> None:
        Supervisor(registry=CollectorRegistry()).start(forever, name="left behind")
        await asyncio.sleep(0)

    asyncio.run(main())
