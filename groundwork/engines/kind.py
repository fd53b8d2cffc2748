"""What one kind of engine is to the runtime."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from groundwork.consul.client import ConsulClient
from groundwork.health.model import Check
from groundwork.settings import EngineSection, Settings

CONNECT_TIMEOUT = 5.0  # seconds


class EngineRuntime(Protocol):
    """What the module of an engine holds, beside the functions that connect to it."""

    @property
    def UNAVAILABLE(self) -> tuple[type[Exception], ...]:  # noqa: N802 - a constant of the module
        """What the driver raises while the server is away."""
        ...

    def check(self, settings: Settings, consul: ConsulClient | None, /) -> Check | None:
        """The health check of the service's engine; None where the process has no use for it. `consul` is the process's client."""
        ...


@dataclass(frozen=True, slots=True)
class EngineKind:
    """The class of the engine's section in `Settings`, and the module with its EngineRuntime, which needs the engine's driver."""

    section: type[EngineSection]
    module: str


def tls_context(ca: Path) -> ssl.SSLContext:
    """Verifies the server's name and its certificate against those in `ca`, as they are on disk now, and nothing else."""
    return ssl.create_default_context(cafile=str(ca))
