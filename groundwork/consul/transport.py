"""HTTP to one Consul address: deadlines, TLS, the token, a cap on bodies, and one exception type per kind of failure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from groundwork.consul.errors import (
    AddressUnresolved,
    AnswerTooLarge,
    BadAnswer,
    CertificateRefused,
    ConnectionLost,
    ConnectionRefused,
    NoLeader,
    ServerFailure,
    SessionUnknown,
)
from groundwork.consul.metrics import ConsulMetrics
from groundwork.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    PlatformError,
    RateLimited,
)
from groundwork.settings import ConsulSettings
from groundwork.tokens import TokenFile

JITTER: Final = 17 / 16  # Consul adds up to wait/16 to a blocking query (api-docs/features/blocking)


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds in seconds, connections and bytes.

    `slack` is added to a blocking query's longest regular wait. `body` bounds the time between headers and the end of the body.
    `watch_connections` 0 means no limit: each watch needs its own, and a full pool would stall watches without a word.
    """

    control: float = 5.0
    control_connections: int = 16
    connect: float = 5.0
    slack: float = 10.0
    body: float = 15.0
    watch_connections: int = 0
    max_body: int = 32 * 1024 * 1024
    dns_ttl: int = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers in any case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytearray


class _Connector(aiohttp.TCPConnector):
    """Knows its connections. Over TLS, asyncio waits half a minute for a silent peer's goodbye; a watch that was given up must not."""

    def __init__(self, *, limit: int, ssl: ssl.SSLContext | bool, ttl_dns_cache: int, resolver: AbstractResolver | None) -> None:
        super().__init__(limit=limit, ssl=ssl, ttl_dns_cache=ttl_dns_cache, resolver=resolver)  # pyright: ignore[reportUnknownMemberType] a parameter of aiohttp is half typed
        self._known: set[asyncio.Transport] = set()

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 aiohttp's own signature
        connection = await super().connect(req, traces, timeout)
        for known in tuple(self._known):
            if known.is_closing():
                self._known.discard(known)
                known.abort()
        if connection.transport is not None:
            self._known.add(connection.transport)
        return connection

    async def abort(self) -> None:
        """Cut what is left."""
        for transport in self._known:
            transport.abort()
        self._known.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class _Broken(aiohttp.ClientError):
    """A connection broke before the answer."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a request again when its connection breaks. A blocking query would wait for the old index at a server that
    has begun anew and miss what happened since; a write may have been done already.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broken(str(error)) from error


def tls_context(settings: ConsulSettings) -> ssl.SSLContext | bool:
    """Verification of the server against the configured CA, and our own certificate where one is configured.

    Raises InvalidSettings where a file cannot be used.
    """
    if not settings.address.startswith("https://"):
        return True
    try:
        context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(f"consul.ca {settings.ca} is no readable CA certificate ({error}): mount the stack's CA there") from None
    if settings.client_cert is not None:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings(f"consul.client_cert {settings.client_cert} and client_key do not fit together ({error})") from None
    return context


class Transport:
    """Two pools to one address: short calls and blocking queries, so that neither can starve the other."""

    def __init__(
        self, settings: ConsulSettings, limits: TransportLimits, metrics: ConsulMetrics, *, resolver: AbstractResolver | None = None
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._resolver = resolver
        self._token = TokenFile(settings.token_file, "consul.token_file")
        self._sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession] | None = None

    async def __aenter__(self) -> Self:
        context = await asyncio.to_thread(tls_context, self._settings)
        self._sessions = (self._session(context, self._limits.control_connections), self._session(context, self._limits.watch_connections))
        return self

    async def __aexit__(self, *_: object) -> None:
        sessions, self._sessions = self._sessions, None
        for session in sessions or ():
            connector = session.connector
            await session.close()
            if isinstance(connector, _Connector):
                await connector.abort()

    def _session(self, context: ssl.SSLContext | bool, limit: int) -> aiohttp.ClientSession:  # noqa: FBT001 aiohttp's own `ssl` is bool or context
        connector = _Connector(limit=limit, ssl=context, ttl_dns_cache=self._limits.dns_ttl, resolver=self._resolver)
        # Proxies and cookies of the environment have no place between a service and its agent; Consul compresses only when asked.
        return aiohttp.ClientSession(
            connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), headers={"Accept-Encoding": "identity"}
        )

    async def send(
        self, op: str, method: str, path: str, params: Mapping[str, str | None], *, body: bytes | None = None, wait: float | None = None
    ) -> Answer:
        """One request. `params` with None stand as bare flags. `wait` set: a blocking query of that many seconds, on the watches' pool.

        Raises the exception that fits every answer but 2xx, 404 and 409, which mean different things to different calls.
        """
        if self._sessions is None:
            raise RuntimeError("the client is not open: use it as an async context manager")
        session = self._sessions[0 if wait is None else 1]
        query = "&".join(urlencode({key: value}) if value is not None else quote(key) for key, value in params.items())
        url = URL(f"{self._settings.address}{path}{'?' + query if query else ''}", encoded=True)
        started, code = monotonic(), "error"
        try:
            answer = await self._exchange(session, method, url, body, wait)
            code = str(answer.status)
            self._raise_for(answer, op)
        except PlatformError as error:
            code = code if code != "error" else type(error).__name__
            raise
        finally:
            self._metrics.requests.labels(op, code).observe(monotonic() - started)
        return answer

    async def _exchange(self, session: aiohttp.ClientSession, method: str, url: URL, body: bytes | None, wait: float | None) -> Answer:
        token = self._token.read()
        headers = {"X-Consul-Token": token} if token else {}
        limits = self._limits
        if wait is None:
            timeout = aiohttp.ClientTimeout(total=limits.control)
        else:
            timeout = aiohttp.ClientTimeout(total=None, connect=limits.connect, sock_read=wait * JITTER + limits.slack)
        where = self._settings.address
        try:
            once = (_once,) if wait is not None or method != "GET" else ()
            async with session.request(method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False, middlewares=once) as response:
                try:
                    async with asyncio.timeout(limits.body):
                        content = await self._read(response)
                except BaseException:
                    response.close()  # an unread answer must not go back to the pool
                    raise
                return Answer(response.status, response.headers, content)
        except TimeoutError as error:
            raise DeadlineExceeded(f"Consul at {where} did not answer {method} {url.raw_path} in time: is it overloaded or cut off?") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            raise CertificateRefused(f"TLS with Consul at {where} failed ({error}): does consul.ca hold the stack's CA?") from error
        except aiohttp.ClientConnectorDNSError as error:
            raise AddressUnresolved(f"Consul's address {where} has no entry in DNS: check consul.address") from error
        except aiohttp.ClientConnectorError as error:
            raise ConnectionRefused(f"Consul at {where} refuses connections ({error.strerror}): is it running?") from error
        except aiohttp.ClientPayloadError as error:
            raise ConnectionLost(f"Consul at {where} broke off in the middle of an answer") from error
        except aiohttp.ClientResponseError as error:
            raise BadAnswer(f"what answers at {where} does not speak HTTP as Consul does") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(f"the connection to Consul at {where} broke ({type(error).__name__})") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytearray:
        limit = self._limits.max_body
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise AnswerTooLarge(f"Consul's answer is larger than {limit} bytes: narrow the query, or raise max_body")
        return body

    def _raise_for(self, answer: Answer, op: str) -> None:
        status = answer.status
        if 200 <= status < 300 or status in {404, 409}:
            return
        text = bytes(answer.body[:300]).decode("utf-8", "replace").strip()
        retry_after = _seconds(answer.headers.get("Retry-After"))
        if status in {401, 403}:
            self._token.forget()
            raise PermissionDenied(f"Consul refuses {op}: the token in {self._settings.token_file or 'use (none)'} lacks the permission ({text})")
        if status == 413:
            raise PayloadTooLarge(f"Consul refuses {op}: the value is too large ({text})")
        if status == 429 or (status == 503 and retry_after is not None):
            raise RateLimited(f"Consul asks for fewer requests ({status})", retry_after=retry_after)
        if status >= 500:
            raise _server_error(op, status, text)
        if 400 <= status < 500:
            raise InvalidRequest(f"Consul calls {op} invalid ({status}): {text}")
        raise BadAnswer(f"status {status} to {op}: does consul.address lead to Consul itself?")


def _server_error(op: str, status: int, text: str) -> PlatformError:
    lowered = text.lower()
    if "no cluster leader" in lowered or "no known consul servers" in lowered:
        return NoLeader(f"Consul has no leader now ({op})")
    if "permission denied" in lowered or "acl not found" in lowered:
        return PermissionDenied(f"Consul refuses {op}: {text}")
    if "invalid key name" in lowered:
        return InvalidRequest(f"Consul calls the key of {op} invalid: {text}")
    if "invalid session" in lowered:
        return SessionUnknown(f"Consul no longer knows the session ({op})")
    return ServerFailure(f"Consul failed at {op} ({status}): {text}")


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, depends on clocks and is not used by Consul."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None


def require(answer: Answer, what: str) -> Answer:
    """The answer unless it is a 404 or 409.

    Raises NotFound, and BackendUnavailable for a 409 that nobody asked for.
    """
    if answer.status == 404:
        raise NotFound(f"{what} does not exist in Consul")
    if answer.status == 409:
        raise BackendUnavailable(f"Consul rolled {what} back")
    return answer
