"""Keeps what others discover in agreement with what is registered, whatever somebody else does to the catalog."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from groundwork.backends.registry import RegistryBackend
from groundwork.errors import PlatformError

RECONCILE_SECONDS: Final = 10.0

log = structlog.stdlib.get_logger(__name__)


async def run_reconciler(backend: RegistryBackend, *, interval: float = RECONCILE_SECONDS) -> None:
    """Compare and mend until cancelled. Only the replica that ends leases does it."""
    while True:
        try:
            mended = await backend.reconcile()
            if mended:
                log.warning("the catalog had forgotten what is registered", instances=mended)
        except PlatformError as error:
            log.warning("the catalog could not be compared with the records", error=type(error).__name__)
        await asyncio.sleep(interval)
