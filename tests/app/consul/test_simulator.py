"""What the simulator does over time, which no real Consul can be made to do within a test: sessions end, locks stay closed."""

from __future__ import annotations

import asyncio

import pytest

from groundwork.backends.consul import LOCK, SESSION_SECONDS, ConsulConfig, ConsulRegistry
from groundwork.consul.client import ConsulClient
from groundwork.consul.errors import SessionUnknown
from groundwork.errors import Conflict
from groundwork.testing.contract import soon
from groundwork.testing.simulator import ConsulSimulator


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(consul_simulator: ConsulSimulator) -> Clock:
    """The simulator's clock."""
    clock = Clock()
    consul_simulator.store.clock = clock
    return clock


async def test_a_session_ends_when_nobody_renews_it_and_not_before(consul_client: ConsulClient, clock: Clock) -> None:
    session = await consul_client.session_create(ttl=10)
    for _ in range(3):
        clock.now += 9.9
        await consul_client.session_renew(session)
    clock.now += 10
    with pytest.raises(SessionUnknown):
        await consul_client.session_renew(session)
    with pytest.raises(SessionUnknown):
        await consul_client.kv_acquire("lock", b"", session)


async def test_the_lock_of_a_session_that_has_ended_stays_closed_for_its_delay(consul_client: ConsulClient, clock: Clock) -> None:
    one = await consul_client.session_create(ttl=10, lock_delay=5)
    assert await consul_client.kv_acquire("lock", b"one", one)
    clock.now += 8
    two = await consul_client.session_create(ttl=10, lock_delay=5)
    clock.now += 2
    found = await consul_client.kv_get("lock")
    assert found is not None
    assert found.session == ""
    assert not await consul_client.kv_acquire("lock", b"two", two)
    clock.now += 5
    assert await consul_client.kv_acquire("lock", b"two", two)


async def test_a_blocking_query_hears_of_a_sessions_end(consul_simulator: ConsulSimulator, consul_client: ConsulClient, clock: Clock) -> None:
    session = await consul_client.session_create(ttl=10)
    assert await consul_client.kv_acquire("locks/a", b"", session)
    before = await consul_client.kv_list("locks/")
    waiting = asyncio.create_task(consul_client.kv_list("locks/", index=before.index, wait=30))
    await consul_simulator.blocked()
    clock.now += 10
    consul_simulator.expire()
    assert [entry.session for entry in (await soon(waiting)).value] == [""]


async def test_r28_a_sweeper_that_vanished_without_a_word_is_replaced_when_its_session_has_ended(consul_client: ConsulClient, clock: Clock) -> None:
    first, second = ConsulRegistry(consul_client, holder="first"), ConsulRegistry(consul_client, holder="second")
    assert await first.lead()
    for _ in range(3):  # as long as it renews
        clock.now += SESSION_SECONDS * 0.9
        assert await first.lead()
        assert not await second.lead()
    clock.now += SESSION_SECONDS
    assert not await second.lead()  # the lock is free and still closed
    clock.now += 1
    assert await second.lead()
    assert not await first.lead()  # it comes back from a long pause, with a session that has ended
    assert not await first.lead()


async def test_r28_the_lock_names_who_holds_it(consul_client: ConsulClient) -> None:
    await ConsulRegistry(consul_client, holder="first").lead()
    found = await consul_client.kv_get(LOCK)
    assert found is not None
    assert found.value == b"first"


@pytest.mark.parametrize("then", ["the same value", "another value", "removed"])
async def test_r32_a_large_write_never_answers_with_the_etag_of_another_one(
    consul_simulator: ConsulSimulator, consul_client: ConsulClient, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Somebody else writes between our write and the look at what it left."""
    config, value = ConsulConfig(consul_client), b"1" * 300 * 1024
    put = consul_client.kv_put

    async def followed(key: str, value: bytes, *, cas: int | None = None, flags: int = 0) -> bool:
        done = await put(key, value, cas=cas, flags=flags)
        consul_simulator.delete(key)
        if then != "removed":
            consul_simulator.put(key, value if then == "the same value" else b"2")
        return done

    monkeypatch.setattr(consul_client, "kv_put", followed)
    with pytest.raises(Conflict, match="right after"):
        await config.put("config/k", value)
