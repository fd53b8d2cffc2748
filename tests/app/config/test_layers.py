"""Which layer says what, and what a key may look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundwork.config.codec import Json
from groundwork.config.layers import prefixes
from groundwork.errors import InvalidRequest, NotFound
from groundwork.testing.simulator import ConsulSimulator
from tests.app.config.support import APP, OWN, store
from tests.app.consul.support import until


def test_the_trees_are_those_of_spring_general_ones_first() -> None:
    assert prefixes("config/", APP, "prod") == ("config/application/", "config/application,prod/", f"config/{APP}/", f"config/{APP},prod/")
    assert prefixes("config/", APP, "") == ("config/application/", f"config/{APP}/")


@pytest.mark.parametrize(
    ("root", "app", "profile"), [("config", APP, ""), ("/", APP, ""), ("a/../", APP, ""), ("c/", "a/b", ""), ("c/", APP, "../x")]
)
def test_a_tree_cannot_lie_outside_of_its_root(root: str, app: str, profile: str) -> None:
    with pytest.raises(InvalidRequest):
        prefixes(root, app, profile)


async def test_each_layer_covers_the_ones_below(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    names = ("default", "general", "general-prod", "own", "own-prod", "file", "env")
    defaults: dict[str, Json] = dict.fromkeys(names, "default")
    for at, tree in enumerate(("application", "application,prod", APP, f"{APP},prod"), start=1):
        for name in names[at:]:
            consul_simulator.put(f"config/{tree}/{name}", json.dumps(names[at]))
    for name in names[5:]:
        (tmp_path / name).write_text('"file"')
    async with store(consul_simulator, profile="prod", defaults=defaults, files=tmp_path, environment={"PLATFORM_CONFIG__ENV": "env"}) as config:
        assert {name: config.get(name) for name in names} == {name: name for name in names}


async def test_objects_are_merged_key_by_key_and_a_longer_key_says_more(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put("config/application/limits", '{"requests": 1, "burst": {"a": 1, "b": 1}}')
    consul_simulator.put(OWN + "limits", '{"burst": {"b": 2, "c": 2}}')
    consul_simulator.put(OWN + "limits/burst/c", "3")
    async with store(consul_simulator) as config:
        assert config.get("limits") == {"requests": 1, "burst": {"a": 1, "b": 2, "c": 3}}
        assert config.get("limits/burst/c") == 3


async def test_what_a_reader_gets_is_a_copy_of_its_own(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "limits", '{"requests": [1]}')
    async with store(consul_simulator) as config:
        for found in (config.get("limits"), config.get("limits")):
            assert found == {"requests": [1]}
            assert isinstance(found, dict)
            found["requests"] = "spoilt"


async def test_what_covers_is_removed_and_what_was_below_shows_again(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put("config/application/a", "1")
    consul_simulator.put(OWN + "a", "2")
    async with store(consul_simulator) as config:
        assert config.get("a") == 2
        consul_simulator.delete(OWN + "a")
        await until(lambda: config.get("a") == 1)


async def test_r34_a_prefix_that_begins_another_is_another(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(f"config/{APP}/a", "1")
    consul_simulator.put(f"config/{APP}-2/a", "2")
    consul_simulator.put(f"config/{APP}/config/{APP}/a", "3")
    async with store(consul_simulator) as config:
        assert config.get("a") == 1
        assert config.get(f"config/{APP}/a") == 3
        consul_simulator.put(f"config/{APP}-2/a", "4")
        consul_simulator.put(f"config/{APP}/b", "5")
        await until(lambda: config.get("b", None) == 5)
        assert config.get("a") == 1


async def test_mounted_files_are_read_again_when_they_change(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text('{"requests": 1}')
    (tmp_path / "limits.burst").write_text("7")
    async with store(consul_simulator, files=tmp_path) as config:
        assert config.get("limits") == {"requests": 1, "burst": 7}
        new = tmp_path / ".new"
        new.write_text('{"requests": 2}')
        new.replace(tmp_path / "limits.json")
        await until(lambda: config.get("limits/requests") == 2)


async def test_an_absent_key_is_an_error_unless_a_default_is_given(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        with pytest.raises(NotFound, match=f"config/{APP}/absent"):
            config.get("absent")
        assert config.get("absent", None) is None
        asked = len(consul_simulator.requests)
        for _ in range(100):
            config.get("absent", 0)
        assert len(consul_simulator.requests) == asked, "absence is known from memory"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", "ä", ".a", "a/.b", "a" * 257, "a\x00"])
async def test_a_key_that_is_none_is_refused(consul_simulator: ConsulSimulator, key: str) -> None:
    async with store(consul_simulator) as config:
        with pytest.raises(InvalidRequest):
            config.get(key)
        with pytest.raises(InvalidRequest):
            await config.put(key, 1)
