"""The event loops on which asynchronous tests run: asyncio's own, or those that LOOPS names (`make matrix` says `asyncio,uvloop`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import uvloop

FACTORIES: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {name: FACTORIES[name] for name in os.environ.get("LOOPS", "asyncio").split(",")}
