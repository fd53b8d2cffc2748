"""Writes with compare-and-set, and what is left of the configuration while its back end is away."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from groundwork.backends.memory import MemoryConfig, MemoryStore
from groundwork.config import keeper
from groundwork.config.store import ConfigStore
from groundwork.errors import Conflict, DeadlineExceeded, PermissionDenied
from groundwork.testing.faults import Fault
from groundwork.testing.simulator import Access, ConsulSimulator
from tests.app.config.support import APP, OWN, Limits, Recorder, store
from tests.app.consul.support import PATIENCE, QUICK, until


async def test_writes_go_to_the_services_own_tree_with_cas(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        written = await config.put("limits", {"requests": 1}, cas=0)
        assert consul_simulator.store.tables.keys[OWN + "limits"].value == b'{"requests":1}'
        with pytest.raises(Conflict):
            await config.put("limits", {"requests": 2}, cas=0)
        await config.put("limits", {"requests": 2}, cas=written.modify_index)
        with pytest.raises(Conflict):
            await config.delete("limits", cas=written.modify_index)
        await until(lambda: config.get("limits", None) == {"requests": 2})
        await config.delete("limits")
        await until(lambda: config.get("limits", None) is None)


async def test_most_services_may_only_read(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.tokens = {"": Access(key_write=())}
    async with store(consul_simulator) as config:
        with pytest.raises(PermissionDenied):
            await config.put("limits", 1)


async def test_r06_an_outage_keeps_the_values_and_shows_their_age(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator) as config:
        told = Recorder()
        config.subscribe("a", told)
        assert (config.age, config.stale) == (0.0, False)
        await consul_simulator.stop()
        await until(lambda: config.stale and config.age > 0)
        assert config.get("a") == 1
        consul_simulator.put(OWN + "a", "2")
        await consul_simulator.start()
        await until(lambda: config.get("a") == 2 and not config.stale)
        await until(lambda: told.news == [2])


async def test_r07_keys_that_vanish_around_an_election_are_kept(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.put(OWN + "b", "1")
    async with store(consul_simulator) as config:
        told = Recorder()
        config.subscribe("a", told)
        await consul_simulator.blocked(2)
        fault = Fault(path=f"/v1/kv/{OWN}", consistent=False, status=404, body=b"")
        with consul_simulator.fault(fault):
            consul_simulator.put(OWN + "b", "2")
            await until(lambda: fault.hits >= 2)
        await until(lambda: config.get("b") == 2)
        assert told.changes == []


async def test_r05_deleting_the_newest_key_is_seen(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.put(OWN + "b", "1")
    async with store(consul_simulator) as config:
        consul_simulator.delete(OWN + "b")
        await until(lambda: config.get("b", None) is None)
        assert config.get("a") == 1


async def test_a_tree_that_may_not_be_read_is_said_at_the_start(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.tokens = {"": Access(key_read=("config/application",))}
    async with store(consul_simulator, ready=False) as config:
        with pytest.raises(PermissionDenied):
            await config.ready(PATIENCE)


async def test_r01_the_last_known_good_file_carries_a_start_without_consul(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    file = tmp_path / "state" / "config.json"
    consul_simulator.put(OWN + "limits", '{"requests": 7}')
    async with store(consul_simulator, snapshot_file=file):
        await until(file.exists)
    assert file.stat().st_mode & 0o077 == 0
    await consul_simulator.stop()
    async with store(consul_simulator, snapshot_file=file, ready=False) as config:
        assert config.bind("limits", Limits).current.requests == 7
        assert config.stale
        with pytest.raises(DeadlineExceeded):
            await config.ready(0.1)
        consul_simulator.put(OWN + "limits", '{"requests": 8}')
        await consul_simulator.start()
        await until(lambda: config.get("limits/requests") == 8)


async def test_r01_what_was_seen_last_is_in_the_file_however_soon_the_service_ends(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for number in range(10):
        consul_simulator.put(OWN + "limits", f'{{"requests": {number}}}')
        async with store(consul_simulator, snapshot_file=file) as config:
            await until(lambda config=config, number=number: config.get("limits/requests") == number)
        assert f'{{"requests": {number}}}'.encode() in b"".join(entry.value for entry in keeper.load(file, (OWN,))[OWN])


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99, "trees": {}}', b"\xff\xfe"])
async def test_a_last_known_good_file_that_is_broken_is_no_obstacle(consul_simulator: ConsulSimulator, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator, snapshot_file=file) as config:
        assert config.get("a") == 1


async def test_the_embedded_back_end_feeds_the_same_store() -> None:
    source = MemoryConfig(MemoryStore())
    async with ConfigStore(source, APP, environment={}, options=QUICK, registry=CollectorRegistry()) as config:
        await config.ready(PATIENCE)
        limits = config.bind("limits", Limits)
        await config.put("limits", {"requests": 3})
        await until(lambda: limits.current.requests == 3)
