"""Typed models are swapped whole, and a bad value never replaces a good one."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from groundwork.config.codec import decode
from groundwork.config.models import DatabaseConfig
from groundwork.config.subscription import ConfigChange
from groundwork.consul.client import ConsulClient
from groundwork.consul.txn import KvSet
from groundwork.errors import InvalidConfig, PayloadTooLarge
from groundwork.testing.simulator import ConsulSimulator
from tests.app.config.support import OWN, Limits, Recorder, store
from tests.app.consul.support import until


async def test_a_model_is_swapped_whole(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "limits", '{"requests": 1, "burst": 2}')
    async with store(consul_simulator) as config:
        limits = config.bind("limits", Limits)
        held = limits.current
        assert held == Limits(requests=1, burst=2)
        consul_simulator.put(OWN + "limits", '{"requests": 3, "burst": 4}')
        await until(lambda: limits.current == Limits(requests=3, burst=4))
        assert held == Limits(requests=1, burst=2), "what a request holds does not change under it"


async def test_an_absent_section_has_the_models_defaults_and_required_fields_are_missed_at_once(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        assert config.bind("limits", Limits).current == Limits()
        with pytest.raises(InvalidConfig, match="database/host"):
            config.bind("database", DatabaseConfig)


BAD = {
    "json": b"{",
    "yaml": b"a: 1",
    "empty": b"",
    "type": b'{"requests": "many"}',
    "unknown field": b'{"requests": 1, "tpyo": 2}',
    "list": b"[1]",
    "nul": b'{"requests": 1}\x00',
    "utf-16": '{"requests": 1}'.encode("utf-16"),
    "latin-1": '{"requests": "ä"}'.encode("latin-1"),
    "twice": b'{"requests": 1, "requests": 2}',
    "deep": b'{"requests":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "nan": b'{"requests": NaN}',
    "infinity": b'{"requests": Infinity}',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_r31_a_bad_value_never_replaces_a_good_one(consul_simulator: ConsulSimulator, bad: bytes) -> None:
    consul_simulator.put(OWN + "limits", '{"requests": 1}')
    registry = CollectorRegistry()
    async with store(consul_simulator, registry=registry) as config:
        limits, told = config.bind("limits", Limits), Recorder()
        config.subscribe("limits", told)
        consul_simulator.put(OWN + "limits", bad)
        consul_simulator.put(OWN + "other", "1")
        await until(lambda: config.get("other", None) == 1)
        assert limits.current == Limits(requests=1)
        assert config.get("limits") == {"requests": 1}
        assert len(config.problems) == 1
        assert registry.get_sample_value("config_rejected_total", {"key": "limits"}) == 1
        consul_simulator.put(OWN + "limits", '{"requests": 2}')
        await until(lambda: limits.current == Limits(requests=2))
        assert config.problems == {}
        await until(lambda: told.news == [{"requests": 2}])


async def test_r31_one_bad_key_does_not_hide_the_others(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.put(OWN + "b", "not json")
    consul_simulator.put(OWN + "folder/", "")
    consul_simulator.put(OWN + "c", "3")
    async with store(consul_simulator) as config:
        assert (config.get("a"), config.get("b", None), config.get("c")) == (1, None, 3)
        assert list(config.problems) == [OWN + "b"]


async def test_r31_a_value_above_the_limit_is_refused_before_it_is_sent(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        asked = len(consul_simulator.requests)
        with pytest.raises(PayloadTooLarge):
            await config.put("a", "x" * (512 * 1024 - 1))
        assert len([request for request in consul_simulator.requests[asked:] if request.method == "PUT"]) == 0
        await config.put("a", "x" * (512 * 1024 - 2))


@pytest.mark.parametrize("name", ["json", "yaml", "empty", "nul", "utf-16", "latin-1", "twice", "deep", "nan", "infinity"])
def test_r31_what_is_no_strict_json_is_refused_without_a_model_too(name: str) -> None:
    with pytest.raises(InvalidConfig):
        decode(BAD[name])


def test_strict_json_says_where_it_is_wrong_and_never_what_stands_there() -> None:
    with pytest.raises(InvalidConfig, match="line 1 column") as caught:
        decode(b'{"password": "hunter2",}')
    assert "hunter2" not in str(caught.value)


async def test_r33_keys_changed_in_one_transaction_are_seen_together(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "limits/requests", "0")
    consul_simulator.put(OWN + "limits/burst", "0")
    async with store(consul_simulator) as config, ConsulClient(consul_simulator.settings, registry=CollectorRegistry()) as writer:
        limits = config.bind("limits", Limits)
        torn: list[Limits] = []

        async def look(change: ConfigChange) -> None:
            if limits.current.requests != limits.current.burst:
                torn.append(limits.current)

        config.subscribe("limits", look)
        for number in range(1, 50):
            await writer.txn([KvSet(OWN + "limits/requests", str(number).encode()), KvSet(OWN + "limits/burst", str(number).encode())])
            if limits.current.requests != limits.current.burst:
                torn.append(limits.current)
        await until(lambda: limits.current == Limits(requests=49, burst=49))
        assert torn == []
