"""Values that nobody can use: they are refused one by one, and what was before stays in force. None of them ends a watch."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, field_validator

from groundwork.config import store as store_module
from groundwork.config.codec import decode
from groundwork.config.subscription import ConfigChange
from groundwork.errors import InvalidConfig
from groundwork.testing.simulator import ConsulSimulator
from tests.app.config.support import OWN, Recorder, store
from tests.app.consul.support import until

POISON = [b'{"a": "\\ud800"}', b'{"\\udfff": 1}', b"1e999", b"-1e999", b"9" * 5000]


class Words(BaseModel):
    """Its validator raises what pydantic does not expect."""

    greeting: str = "Hello"

    @field_validator("greeting")
    @classmethod
    def _known(cls, value: str) -> str:
        return {"Hello": value, "Bye": value}[value]


@pytest.mark.parametrize("raw", POISON)
def test_r31_what_cannot_be_written_again_is_not_read(raw: bytes) -> None:
    with pytest.raises(InvalidConfig):
        decode(raw)


@pytest.mark.parametrize("raw", [b'"\\ud83d\\ude00"', b"1.5e300", b"9223372036854775807", b"123456789012345678901234567890"])
def test_r31_what_only_looks_like_it_is_read(raw: bytes) -> None:
    decode(raw)


@pytest.mark.parametrize("raw", POISON)
async def test_r31_a_poisonous_value_is_rejected_and_the_next_one_is_seen(consul_simulator: ConsulSimulator, raw: bytes) -> None:
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator) as config:
        told = Recorder()
        config.subscribe("a", told)
        consul_simulator.put(OWN + "a", raw)
        await until(lambda: OWN + "a" in config.problems)
        assert config.get("a") == 1
        consul_simulator.put(OWN + "a", "2")
        await until(lambda: told.news == [2])
        assert not config.problems


async def test_r31_a_validator_that_raises_anything_has_rejected_the_value(consul_simulator: ConsulSimulator) -> None:
    registry = CollectorRegistry()
    async with store(consul_simulator, registry=registry) as config:
        words = config.bind("words", Words)
        consul_simulator.put(OWN + "words", '{"greeting": "Moin"}')
        await until(lambda: words.error is not None)
        assert (words.current.greeting, "KeyError" in str(words.error), "Moin" in str(words.error)) == ("Hello", True, False)
        assert registry.get_sample_value("config_rejected_total", {"key": "words"}) == 1
        consul_simulator.put(OWN + "words", '{"greeting": "Bye"}')
        await until(lambda: words.current.greeting == "Bye")
        assert not config.stale


async def test_r31_a_model_that_cannot_even_be_bound_says_why(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "words", '{"greeting": "Moin"}')
    async with store(consul_simulator) as config:
        with pytest.raises(InvalidConfig, match="KeyError in a validator of Words"):
            config.bind("words", Words)


async def test_r31_an_environment_that_is_not_text_is_named(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator, environment={"PLATFORM_CONFIG__A": "\udcff", "PLATFORM_CONFIG__B": "ok"}) as config:
        assert config.get("b") == "ok"
        assert config.problems == {"environment:a": "not UTF-8"}


async def test_r60_a_listener_that_raises_costs_one_value_and_is_counted(consul_simulator: ConsulSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator, registry=registry) as config:

        def merged(_layers: object) -> dict[str, object]:
            raise LookupError

        with monkeypatch.context() as patched:
            patched.setattr(store_module, "merged", merged)
            consul_simulator.put(OWN + "a", "2")
            await until(lambda: OWN in config.problems)
        assert config.get("a") == 1
        assert registry.get_sample_value("watch_rejected_total", {"query": "config", "error": "LookupError"}) == 1
        consul_simulator.put(OWN + "a", "3")
        await until(lambda: config.get("a") == 3)
        assert OWN not in config.problems


async def test_r60_a_callback_that_ends_the_task_gets_the_next_change(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "0")
    async with store(consul_simulator) as config:
        told = Recorder()

        async def kills(change: ConfigChange) -> None:
            await told(change)
            task = asyncio.current_task()
            assert task is not None
            if change.new == 1:
                task.cancel()
                await asyncio.sleep(0)

        config.subscribe("a", kills)
        for number in (1, 2):
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: told.news[-1:] == [number])


async def test_r60_files_that_are_replaced_while_they_are_read_are_read_again(
    consul_simulator: ConsulSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limits.json").write_text("1")
    async with store(consul_simulator, files=tmp_path) as config:
        told = Recorder()
        config.subscribe("limits", told)

        def gone(_folder: object) -> object:
            raise FileNotFoundError(2, "No such file or directory")

        with monkeypatch.context() as patched:
            patched.setattr(store_module, "stamp", gone)
            await until(lambda: "mounted files" in config.problems)
            (tmp_path / "limits.json").write_text("2")
        await until(lambda: config.get("limits") == 2)
        assert (told.news, config.problems) == ([2], {})


async def test_r31_a_mounted_file_that_cannot_be_read_leaves_its_value_in_force(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text("1")
    async with store(consul_simulator, files=tmp_path) as config:
        (tmp_path / "limits.json").write_text("{")
        await until(lambda: "files:limits" in config.problems)
        assert config.get("limits") == 1
        (tmp_path / "limits.json").unlink()
        await until(lambda: config.get("limits", None) is None)


async def test_r60_a_folder_that_the_kubelet_swaps_again_and_again_is_followed(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    """As the kubelet's atomic writer does it: a new hidden folder, one renamed link, the old folder removed."""
    done = threading.Event()

    def swap(number: int) -> None:
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "limits.json").write_text(str(number))
        (tmp_path / "..new").symlink_to(folder.name)
        (tmp_path / "..new").replace(tmp_path / "..data")
        old = tmp_path / f"..{number - 1}"
        if old.exists():
            (old / "limits.json").unlink()
            old.rmdir()

    def kubelet() -> None:
        for number in range(1, 300):
            swap(number)
            time.sleep(0.001)
        done.set()

    swap(0)
    (tmp_path / "limits.json").symlink_to("..data/limits.json")
    async with store(consul_simulator, files=tmp_path) as config:
        thread = threading.Thread(target=kubelet)
        thread.start()
        await until(done.is_set)
        await until(lambda: config.get("limits") == 299)
        thread.join()


async def test_the_age_of_the_configuration_is_measured(consul_simulator: ConsulSimulator) -> None:
    registry = CollectorRegistry()
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator, registry=registry):
        assert registry.get_sample_value("config_age_seconds") == 0
        await consul_simulator.stop()
        await until(lambda: (registry.get_sample_value("config_age_seconds") or 0) > 0.05)
        await consul_simulator.start()
        await until(lambda: registry.get_sample_value("config_age_seconds") == 0)


async def test_who_binds_before_the_first_answer_works_on_defaults_until_it_is_here(consul_simulator: ConsulSimulator) -> None:
    registry, told = CollectorRegistry(), asyncio.Event()
    consul_simulator.put(OWN + "words", '{"greeting": "Bye"}')
    await consul_simulator.stop()
    async with store(consul_simulator, registry=registry, ready=False) as config:
        config.on_loaded(told.set)
        assert not config.on_defaults
        words = config.bind("words", Words)
        assert (config.on_defaults, config.loaded, words.current.greeting) == (True, False, "Hello")
        assert registry.get_sample_value("config_on_defaults") == 1
        await consul_simulator.start()
        await until(told.is_set)
        assert (config.on_defaults, words.current.greeting) == (False, "Bye")
        assert registry.get_sample_value("config_on_defaults") == 0
