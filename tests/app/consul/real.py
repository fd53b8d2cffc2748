"""A real Consul for tests that a simulator could flatter. Skipped, with the reason, where none is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from groundwork.settings import ConsulSettings
from tests.app import servers


@dataclass(frozen=True)
class RealConsul:
    """A running server and how to reach it."""

    server: servers.Consul
    settings: ConsulSettings


def find_in_cache() -> None:
    """Name the sandbox's own build of Consul where nothing else is named."""
    if "CONSUL_BIN" in os.environ or shutil.which("consul"):
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "groundwork"
    found = [path for path in (cache / "bin" / "consul", *sorted(cache.glob("tools/*/consul"))) if os.access(path, os.X_OK)]
    if found:
        os.environ["CONSUL_BIN"] = str(found[-1])


@pytest.fixture(scope="module")
def real_consul(tmp_path_factory: pytest.TempPathFactory) -> Generator[RealConsul]:
    """A Consul server with TLS and access lists, one per module."""
    find_in_cache()
    token = tmp_path_factory.mktemp("consul") / "token"
    with servers.consul() as server:
        token.write_text(server.token)
        yield RealConsul(server, ConsulSettings(address=server.address, ca=server.ca, token_file=token))
