"""The registry's REST API as a service uses it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
import msgspec

from groundwork.discovery.models import Status
from groundwork.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    InstanceConflict,
    InstanceUnknown,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
)
from groundwork.registry.models import Registration
from groundwork.tokens import TokenFile

DEADLINE = 3.0  # seconds for a whole call
WORDS = {Status.PASSING: "pass", Status.WARNING: "warn", Status.CRITICAL: "fail"}


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""


class RegistryClient:
    """Registers instances over HTTP. `token_file` is looked at before every call, because a projected token is renewed in place."""

    def __init__(self, url: str, *, token_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = TokenFile(token_file, "registry.token_file")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def register(self, wish: Registration) -> None:
        """Register. Raises InstanceConflict where the id is taken, PermissionDenied, InvalidRequest, RateLimited, BackendUnavailable."""
        await self._send("POST", "/api/v1/services/register", wish.model_dump(mode="json"))

    async def heartbeat(self, service_id: str, status: Status) -> None:
        """Renew the lease. Raises InstanceUnknown where the instance must register again."""
        await self._send("PUT", f"/api/v1/services/{quote(service_id, safe='')}/heartbeat", {"status": WORDS.get(status, "fail")})

    async def deregister(self, service_id: str) -> None:
        """Forget the instance. Raises InstanceUnknown where it is not registered."""
        await self._send("DELETE", f"/api/v1/services/{quote(service_id, safe='')}", None)

    async def get(self, path: str, *, wait: float = 0.0) -> bytes:
        """The body of an answer that may take `wait` seconds longer. Raises as the other calls do."""
        return await self._send("GET", path, None, wait=wait)

    async def _send(self, method: str, path: str, body: object, *, wait: float = 0.0) -> bytes:
        if self._session is None:
            raise RuntimeError("use RegistryClient as `async with`")
        token = self._token.read()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=DEADLINE + wait)
        try:
            async with self._session.request(
                method, self._url + path, json=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                answer = await response.read()
                status, later = response.status, response.headers.get("Retry-After", "")
        except TimeoutError:
            raise DeadlineExceeded(f"registry {self._url} did not answer within {DEADLINE + wait:g} s") from None
        except aiohttp.ClientError as error:
            raise BackendUnavailable(f"registry {self._url} cannot be reached ({type(error).__name__})") from error
        if status < 300:
            return answer
        try:
            problem = msgspec.json.decode(answer, type=_Problem)
        except msgspec.MsgspecError:
            problem = _Problem()
        detail = f"registry answered {status} {problem.title}: {problem.detail}".rstrip(": ")
        match status:
            case 404:
                raise InstanceUnknown(detail)
            case 409:
                raise InstanceConflict(detail)
            case 401 | 403:
                self._token.forget()
                raise PermissionDenied(detail)
            case 429 | 503 if later or status == 429:
                raise RateLimited(detail, retry_after=float(later) if later.isascii() and later.isdigit() else None)
            case _ if status < 500 and status != 408:
                raise InvalidRequest(detail)
            case _:
                raise BackendUnavailable(detail)
