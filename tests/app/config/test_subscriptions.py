"""Callbacks hear of their key alone, with old and new, and cannot hurt each other."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry

from groundwork.config.codec import Json
from groundwork.config.subscription import ChangeKind, ConfigChange
from groundwork.testing.simulator import ConsulSimulator
from tests.app.config.support import OWN, Recorder, store
from tests.app.consul.support import PATIENCE, until


async def test_a_callback_hears_of_changes_of_its_key_only_with_old_and_new(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator) as config:
        told, everything = Recorder(), Recorder()
        config.subscribe("a", told)
        config.subscribe("", everything)
        consul_simulator.put(OWN + "b", "1")
        await until(lambda: len(everything.changes) == 1)
        consul_simulator.put(OWN + "a", "true")  # not the same as 1, though Python thinks so
        await until(lambda: len(told.changes) == 1)
        consul_simulator.delete(OWN + "a")
        await until(lambda: len(told.changes) == 2)
        consul_simulator.put(OWN + "a", "1")
        await until(lambda: len(told.changes) == 3)
    kinds = [(change.kind, change.old, change.new) for change in told.changes]
    assert kinds == [(ChangeKind.UPDATED, 1, True), (ChangeKind.DELETED, True, None), (ChangeKind.CREATED, None, 1)]
    assert [change.key for change in told.changes] == ["a"] * 3
    indexes = [change.index for change in told.changes]
    assert indexes == sorted(indexes)


async def test_r15_sync_async_raising_cancelling_and_hanging_callbacks_do_not_disturb_each_other(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "0")
    registry = CollectorRegistry()
    release = threading.Event()
    calls: list[str] = []
    async with store(consul_simulator, registry=registry, callback_timeout=0.2) as config:
        told = Recorder()

        async def raises(change: ConfigChange) -> None:
            calls.append("raises")
            raise ZeroDivisionError

        async def cancels(change: ConfigChange) -> None:
            calls.append("cancels")
            raise asyncio.CancelledError

        async def hangs(change: ConfigChange) -> None:
            calls.append("hangs")
            await asyncio.Event().wait()

        def blocks(change: ConfigChange) -> None:
            calls.append("blocks")
            release.wait(PATIENCE)

        def sync(change: ConfigChange) -> None:
            calls.append("sync")

        def sync_raises(change: ConfigChange) -> None:
            calls.append("sync raises")
            raise SystemExit

        for callback in (raises, cancels, hangs, blocks, sync, sync_raises, told):
            config.subscribe("a", callback)
        for number in (1, 2, 3):
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: told.news[-1:] == [number])
            await until(lambda number=number: calls.count("sync") == number)
        await until(lambda: registry.get_sample_value("config_callback_failures_total", {"reason": "timeout"}) is not None)
        number = 3
        while calls.count("hangs") < 3:  # the one beside it had its time twice over
            number += 1
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: told.news[-1:] == [number])
            await asyncio.sleep(0.05)
        assert calls.count("blocks") == 1, "no second thread beside one that hangs"
        before = Counter(calls)
        consul_simulator.put(OWN + "a", "1000")
        await until(lambda: all(Counter(calls)[name] > before[name] for name in ("raises", "cancels", "sync raises")))
        release.set()
        await until(lambda: calls.count("blocks") >= 2)
    for reason in ("ZeroDivisionError", "CancelledError", "RuntimeError", "timeout"):
        assert registry.get_sample_value("config_callback_failures_total", {"reason": reason}), reason


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_r15_a_callback_may_end_its_own_subscription(consul_simulator: ConsulSimulator, sync: bool) -> None:
    consul_simulator.put(OWN + "a", "0")
    async with store(consul_simulator) as config:
        calls: list[Json] = []
        told = Recorder()

        async def once(change: ConfigChange) -> None:
            calls.append(change.new)
            subscription.close()

        def once_sync(change: ConfigChange) -> None:
            calls.append(change.new)
            subscription.close()

        subscription = config.subscribe("a", once_sync if sync else once)
        config.subscribe("a", told)
        for number in (1, 2):
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: told.news[-1:] == [number] and bool(calls))
        assert calls == [1]


async def test_r14_a_slow_callback_misses_states_in_between_and_gets_the_last(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "0")
    gate = asyncio.Event()
    async with store(consul_simulator) as config:
        slow, quick = Recorder(), Recorder()

        async def wait(change: ConfigChange) -> None:
            await slow(change)
            await gate.wait()

        config.subscribe("a", wait)
        config.subscribe("a", quick)
        for number in range(1, 10):
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: quick.news[-1:] == [number])
        gate.set()
        await until(lambda: slow.news[-1:] == [9])
        assert slow.news[0] == 1
        assert len(slow.news) == 2
        assert (slow.changes[1].old, slow.changes[1].new) == (1, 9)


async def test_a_closed_subscription_is_not_called_again(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "0")
    async with store(consul_simulator) as config:
        told, other = Recorder(), Recorder()
        subscription = config.subscribe("a", told)
        config.subscribe("a", other)
        subscription.close()
        consul_simulator.put(OWN + "a", "1")
        await until(lambda: other.news == [1])
    assert told.changes == []
