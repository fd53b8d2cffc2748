"""JSON over HTTPS, for the two engines that are managed that way."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from app.accounts.errors import AccountsError, NotYet

TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)


@dataclass(frozen=True)
class Answer:
    """Status and decoded body of an answer; `body` is None where there is none."""

    status: int
    body: object
    text: str


class Api:
    """One engine's API at `base`, with the administrator's credential on every call."""

    def __init__(self, session: aiohttp.ClientSession, what: str, base: str) -> None:
        self._session = session
        self._what = what
        self._base = base

    async def call(self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Any answer below 500. Raises NotYet for the others, OSError where nothing answers."""
        try:
            async with self._session.request(method, self._base + path, json=body, headers=headers) as response:
                text = await response.text()
        except aiohttp.ClientConnectorCertificateError as error:
            raise error.certificate_error from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
            raise NotYet(f"{self._what} ended the connection ({error})") from None
        if response.status >= 500:
            raise NotYet(f"{self._what} answers {response.status}: {text[:200]}")
        return Answer(response.status, json.loads(text) if text and response.content_type == "application/json" else None, text)

    async def must(self, method: str, path: str, body: object = None) -> object:
        """The body of a 2xx answer. Raises AccountsError for any other."""
        answer = await self.call(method, path, body)
        if not 200 <= answer.status < 300:
            raise AccountsError(f"{self._what} refused {method} {path} with {answer.status}: {answer.text[:300]}")
        return answer.body


@asynccontextmanager
async def api(
    what: str,
    host: str,
    port: int,
    trust: ssl.SSLContext,
    *,
    headers: Mapping[str, str],
) -> AsyncGenerator[Api]:
    """The API of one engine, with verified TLS; `headers` carry the administrator's credential."""
    connector = aiohttp.TCPConnector(ssl=trust, limit=4)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, headers=headers) as session:
        yield Api(session, what, f"https://{host}:{port}")
