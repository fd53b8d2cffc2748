"""The platform's APIs in this process, without sockets: a platform on the embedded back end and clients of its application."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
from fastapi import FastAPI

from app.main import application
from groundwork import Platform
from groundwork.settings import Settings

SCOPES = ("registry:read", "registry:write", "config:read", "config:write")
POD = "10.244.1.7"


@dataclass
class Api:
    """A running platform and its application."""

    platform: Platform
    app: FastAPI

    def client(self, *, token: str = "", address: str = POD) -> httpx2.AsyncClient:
        """Somebody's client, from an address."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx2.ASGITransport(app=self.app, client=(address, 1234))
        return httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers)


@asynccontextmanager
async def api(**settings: object) -> AsyncGenerator[Api]:
    """Both APIs; without `auth` everybody may do everything."""
    known: dict[str, object] = {"service": "app", "drain_seconds": 0.0, "allowed_cidrs": ("10.244.0.0/16",), "http_port": 1, **settings}
    async with Platform(Settings.model_validate(known), configure_logs=False) as p, application("all", p) as app:
        yield Api(p, app)


def wish(service: str = "user-service", service_id: str = "user-service-001", **changes: object) -> dict[str, object]:
    """The body of a registration."""
    return {"service_name": service, "service_id": service_id, "address": POD, "port": 8001, **changes}
