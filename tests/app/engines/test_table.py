"""What is forgotten about a kind of engine fails here: the table, the sections of the settings, the modules and the checks agree."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections.abc import Mapping
from inspect import isclass
from typing import get_args

import pytest

from groundwork import Platform, engines
from groundwork.consul.client import ConsulClient
from groundwork.engines import ENGINES, runtime
from groundwork.errors import BackendUnavailable, InvalidSettings, PlatformError
from groundwork.health.model import Typed
from groundwork.metrics import Metrics
from groundwork.settings import ConsulSettings, EngineSection, Settings, load
from tests.app.health.support import until
from tests.app.platform.world import ROOT

EXAMPLES: Mapping[str, Mapping[str, object]] = {name: {"host": name} for name in ENGINES} | {
    "postgres": {"host": "postgres", "database": "orders"},
    "consul": {"address": "https://consul:8501"},
}
DRIVERS = ("asyncpg", "redis", "aio_pika", "aiormq")


def sections() -> dict[str, type[EngineSection]]:
    """The engines' sections of the settings."""
    found: dict[str, type[EngineSection]] = {}
    for name, field in Settings.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isclass(part) and issubclass(part, EngineSection):
                found[name] = part
    return found


def settings(**changes: object) -> Settings:
    return Settings.model_validate({"service": "test", **changes})


def with_engine(name: str, **changes: object) -> Settings:
    return settings(**{name: {**EXAMPLES[name], **changes}})


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process that has imported nothing yet."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def without_drivers(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` where no driver of an engine is installed."""
    return python(f"import sys\nsys.modules.update(dict.fromkeys({DRIVERS}))\nfrom groundwork import Platform, engines\n{code}")


def test_the_settings_have_a_section_for_each_kind_and_for_no_other() -> None:
    assert sections() == {name: kind.section for name, kind in ENGINES.items()}


def test_a_service_may_do_without_any_engine() -> None:
    assert all(getattr(settings(), name) is None for name in ENGINES)


def test_each_kind_has_a_module_of_its_name_and_no_module_lacks_a_kind() -> None:
    modules = {module.name for module in pkgutil.iter_modules(engines.__path__)} - {"kind"}
    assert modules == set(ENGINES)
    assert {name: kind.module for name, kind in ENGINES.items()} == {name: f"groundwork.engines.{name}" for name in ENGINES}


@pytest.mark.parametrize("name", ENGINES)
def test_the_module_says_what_its_driver_raises(name: str) -> None:
    raised = runtime(name).UNAVAILABLE
    assert raised
    assert all(issubclass(error, Exception) and error is not Exception for error in raised)


@pytest.mark.parametrize("name", ENGINES)
async def test_the_check_has_the_name_of_its_kind(name: str) -> None:
    async with ConsulClient(ConsulSettings(address="http://consul"), registry=Metrics().registry) as client:
        check = runtime(name).check(with_engine(name), client)
    assert check is not None
    assert check.name == name
    assert isinstance(check, Typed)
    assert check.component_type in {"datastore", "component", "system"}


@pytest.mark.parametrize("name", ENGINES)
def test_there_is_no_check_of_an_engine_that_the_service_does_not_have(name: str) -> None:
    assert runtime(name).check(settings(), None) is None


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("name", ENGINES)
async def test_the_platform_watches_the_engine_and_is_ready_without_it_only_if_it_may(name: str, required: bool) -> None:
    here = with_engine(
        name, **({"host": "127.0.0.1", "port": 1} if "host" in EXAMPLES[name] else {"address": "http://127.0.0.1:1"}), required=required
    )
    async with Platform(here, configure_logs=False) as p:
        added = {check.name: needed for check, needed in engines.checks(here, p.backends.consul)}
        assert added == {name: required}
        await until(lambda: name in p.health.details().checks)
        assert p.health.ready().http_status == (503 if required else 200)


def test_consul_that_the_embedded_back_end_replaces_is_not_checked() -> None:
    assert list(engines.checks(settings(consul=EXAMPLES["consul"], backend="memory"), None)) == []


def test_an_error_of_a_driver_means_away_only_where_the_service_has_the_engine() -> None:
    assert engines.unavailable(settings()) == ()
    everything = engines.unavailable(settings(**EXAMPLES))
    for name in ENGINES:
        own = {error for error in runtime(name).UNAVAILABLE if not issubclass(error, PlatformError)}
        assert set(engines.unavailable(with_engine(name))) == own
        assert own <= set(everything)
    assert not [error for error in engines.unavailable(with_engine("postgres")) if error.__module__.startswith(("redis", "aio"))]


def test_the_runtime_s_own_errors_keep_their_own_answers() -> None:
    assert BackendUnavailable in runtime("consul").UNAVAILABLE
    assert BackendUnavailable not in engines.unavailable(settings(**EXAMPLES))


def test_without_any_driver_the_runtime_works_for_a_service_without_those_engines() -> None:
    consul = f"Platform.from_env(service='a').settings.model_copy(update={{'consul': ConsulSettings(**{dict(EXAMPLES['consul'])!r})}})"
    done = without_drivers(
        "from groundwork.settings import ConsulSettings\n"
        "Platform.from_env(service='a').app('A')\n"
        f"print(engines.unavailable({consul}), [c.name for c, _ in engines.checks({consul}, object())])"
    )
    assert (done.stdout.strip(), done.returncode) == ("() ['consul']", 0), done.stderr


@pytest.mark.parametrize(("name", "driver"), [("postgres", "asyncpg"), ("redis", "redis"), ("rabbitmq", "aio_pika")])
def test_a_driver_that_is_missing_is_named_with_the_fix(name: str, driver: str) -> None:
    done = without_drivers(
        "from groundwork.errors import InvalidSettings\n"
        "from groundwork.settings import load\n"
        "try:\n"
        f"    engines.unavailable(load(service='a', **{{{name!r}: {dict(EXAMPLES[name])!r}}}))\n"
        "except InvalidSettings as error:\n"
        "    print(error)"
    )
    assert done.returncode == 0, done.stderr
    assert f"`{name}`" in done.stdout
    assert f"driver {driver}" in done.stdout
    assert "groundwork[app]" in done.stdout


def test_only_the_drivers_of_the_service_s_own_engines_are_imported() -> None:
    done = python(
        "import sys\n"
        "from groundwork import engines\n"
        "from groundwork.settings import load\n"
        f"print(engines.unavailable(load(service='a')), [d for d in {DRIVERS} if d in sys.modules])\n"
        f"engines.unavailable(load(service='a', postgres={dict(EXAMPLES['postgres'])!r}))\n"
        f"print([d for d in {DRIVERS} if d in sys.modules])"
    )
    assert done.stdout.splitlines() == ["() []", "['asyncpg']"], done.stderr


@pytest.mark.parametrize("size", [0, 101, -1, "many"])
def test_a_pool_size_that_cannot_work_is_refused_by_its_key(size: object) -> None:
    with pytest.raises(InvalidSettings, match=r"postgres\.pool_size"):
        load(service="a", postgres={**EXAMPLES["postgres"], "pool_size": size})


def test_a_pool_has_eight_connections_unless_the_settings_say_otherwise() -> None:
    assert with_engine("postgres").postgres == with_engine("postgres", pool_size=8).postgres
