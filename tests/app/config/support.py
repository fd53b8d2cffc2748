"""What the tests of the configuration share: a store on the simulator, a model, a callback that remembers, a folder of secrets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict

from groundwork.backends.consul import ConsulConfig
from groundwork.config.codec import Json
from groundwork.config.store import ConfigStore
from groundwork.config.subscription import ConfigChange
from groundwork.consul.client import ConsulClient
from groundwork.testing.simulator import ConsulSimulator
from tests.app.consul.support import PATIENCE, QUICK, QUICK_LIMITS

APP = "user-service"
OWN = f"config/{APP}/"


class Limits(BaseModel):
    """A model as a service would write it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = 10
    burst: int = 5


@asynccontextmanager
async def store(
    simulator: ConsulSimulator,
    *,
    profile: str = "",
    defaults: Mapping[str, Json] | None = None,
    environment: Mapping[str, str] | None = None,
    files: Path | None = None,
    secrets_dir: Path | None = None,
    snapshot_file: Path | None = None,
    registry: CollectorRegistry | None = None,
    ready: bool = True,
    callback_timeout: float = 5.0,
) -> AsyncGenerator[ConfigStore]:
    """A store on the simulator."""
    registry = registry or CollectorRegistry()
    async with (
        ConsulClient(simulator.settings, limits=QUICK_LIMITS, registry=registry) as client,
        ConfigStore(
            ConsulConfig(client),
            APP,
            profile,
            defaults=defaults,
            environment=environment or {},
            files=files,
            secrets_dir=secrets_dir,
            snapshot_file=snapshot_file,
            options=QUICK,
            callback_timeout=callback_timeout,
            files_interval=0.01,
            registry=registry,
        ) as config,
    ):
        if ready:
            await config.ready(PATIENCE)
        yield config


class Recorder:
    """A callback that writes down what it is told."""

    def __init__(self) -> None:
        self.changes: list[ConfigChange] = []

    async def __call__(self, change: ConfigChange) -> None:
        self.changes.append(change)

    @property
    def news(self) -> list[Json]:
        """The new values."""
        return [change.new for change in self.changes]


def mounted(folder: Path, **values: str) -> Path:
    """A folder of secrets as Kubernetes mounts them: links into a hidden folder."""
    data = folder / "..2026"
    data.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (data / name).write_text(value)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..2026") / name)
    return folder
