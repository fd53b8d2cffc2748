"""The APIs for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest_asyncio

from tests.app.api.support import Api, api


@pytest_asyncio.fixture
async def world() -> AsyncGenerator[Api]:
    """Both APIs on the embedded back end, authentication off."""
    async with api() as one:
        yield one


@pytest_asyncio.fixture
async def http(world: Api) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of them."""
    async with world.client() as client:
        yield client
