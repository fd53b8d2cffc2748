"""The kinds of engine that a service can use. Whatever must know all of them walks `ENGINES`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final, cast

from groundwork.consul.client import ConsulClient
from groundwork.engines.kind import EngineKind, EngineRuntime
from groundwork.errors import InvalidSettings, PlatformError
from groundwork.health.model import Check
from groundwork.settings import ConsulSettings, EngineSection, PostgresSettings, RabbitmqSettings, RedisSettings, Settings

ENGINES: Final[Mapping[str, EngineKind]] = {
    "postgres": EngineKind(PostgresSettings, "groundwork.engines.postgres"),
    "redis": EngineKind(RedisSettings, "groundwork.engines.redis"),
    "rabbitmq": EngineKind(RabbitmqSettings, "groundwork.engines.rabbitmq"),
    "consul": EngineKind(ConsulSettings, "groundwork.engines.consul"),
}
"""By the name of the section in `Settings`, which is also that of the check and of the engine in a stack file."""


def runtime(name: str) -> EngineRuntime:
    """What talks to engines of this kind. It is imported only where a service has one, because the drivers are an extra.

    Raises InvalidSettings where the driver is not installed.
    """
    try:
        return cast("EngineRuntime", import_module(ENGINES[name].module))
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"`{name}` is set, but its driver {error.name} is not installed: install groundwork[app]") from None


def checks(settings: Settings, consul: ConsulClient | None) -> Iterator[tuple[Check, bool]]:
    """A check for each engine of the service, and whether the service needs the engine to be ready.

    Raises InvalidSettings where the driver of one of them is not installed.
    """
    for name, section in _used(settings):
        check = runtime(name).check(settings, consul)
        if check is not None:
            yield check, section.required


def unavailable(settings: Settings) -> tuple[type[Exception], ...]:
    """What the drivers of the service's engines raise while an engine is away: an answer with such an error is a 503, try again.

    The runtime's own errors are not among them: every application answers those already, and more precisely.
    """
    raised = (error for name, _ in _used(settings) for error in runtime(name).UNAVAILABLE)
    return tuple(dict.fromkeys(error for error in raised if not issubclass(error, PlatformError)))


def _used(settings: Settings) -> Iterator[tuple[str, EngineSection]]:
    for name in ENGINES:
        section: object = getattr(settings, name)
        if isinstance(section, EngineSection):
            yield name, section
