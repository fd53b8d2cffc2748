"""What happens around every request, as plain ASGI: ids, access log, metrics, a limit for bodies, and problems for what nobody caught."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from random import Random
from time import perf_counter

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groundwork.metrics import Metrics
from groundwork.web.problem import ProblemError, render

BODY_SECONDS = 10.0  # for the whole body: whoever is slower holds a connection on purpose
QUIET = ("/health", "/metrics")  # paths that are asked every few seconds

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")  # https://www.w3.org/TR/trace-context/
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RANDOM = Random()  # noqa: S311 - names requests, guards nothing


class RequestContext:
    """Outermost: gives each request a trace id and a request id, logs and counts it, and answers what nobody caught with a problem."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, draining: Callable[[], bool]) -> None:
        self._app = app
        self._log = structlog.stdlib.get_logger("access").bind()  # bound once: each use of an unbound logger binds it anew
        self._metrics = metrics
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace_id, request_id = _ids(dict(scope["headers"]))
        scope["trace_id"] = trace_id
        structlog.contextvars.bind_contextvars(trace_id=trace_id, request_id=request_id)
        status = 0
        begin = perf_counter()

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if self._draining():
                    message["headers"].append((b"connection", b"close"))  # the client's next request goes to another pod
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, send_with_ids)
        except Exception:
            self._log.exception("request failed")
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            problem = ProblemError(500, "internal", "Internal error", "the error was logged under this trace id")
            await render(problem, path=scope["path"], trace_id=trace_id)(scope, receive, send_with_ids)
        finally:
            self._metrics.in_flight -= 1
            elapsed = perf_counter() - begin
            # The route's template, never the path itself: paths are the caller's and without number.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(_method(scope["method"]), route, status or 499, elapsed)
            if (not scope["path"].startswith(QUIET) or status >= 500) and self._log.is_enabled_for(logging.INFO):
                # No query, no headers: they may hold what must not be in a log.
                self._log.info("request", method=scope["method"], path=scope["path"][:256], status=status or 499, ms=round(elapsed * 1000, 1))


class BodyLimit:
    """Reads the body before anything parses it, up to a number of bytes and for a bounded time: more is 413, slower is 408."""

    def __init__(self, app: ASGIApp, *, limit: Callable[[Scope], int]) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(Request(scope, receive), limit)
        except TimeoutError:
            problem = ProblemError(408, "timeout", "Request timeout", f"the body must arrive within {BODY_SECONDS:.0f} s")
        except ProblemError as error:
            problem = error
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)
            return
        problem.headers["Connection"] = "close"  # the rest of the body is not read
        await render(problem, path=scope["path"], trace_id=str(scope.get("trace_id", "")))(scope, receive, send)


def _ids(headers: dict[bytes, bytes]) -> tuple[str, str]:
    """The trace id and the request id: the caller's where they are well formed, else new ones."""
    parent = _TRACE_PARENT.fullmatch(headers.get(b"traceparent", b"").decode("latin-1"))
    asked = headers.get(b"x-request-id", b"").decode("latin-1")
    new = f"{_RANDOM.getrandbits(192):048x}"
    return parent["trace"] if parent else new[:32], asked if _REQUEST_ID.fullmatch(asked) else new[32:]


async def _read(request: Request, limit: int) -> bytes | None:
    """The whole body; None when the client went away.

    Raises ProblemError 413 as soon as it is known to be longer than `limit`.
    """
    too_large = ProblemError(413, "payload-too-large", "Too large", f"the body may have at most {limit} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise too_large
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def once() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _method(method: str) -> str:
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
