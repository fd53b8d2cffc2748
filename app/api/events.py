"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from groundwork.auth import Principal
from groundwork.web.guard import Guard
from groundwork.web.problem import ProblemError, render

KEEPALIVE = 15.0  # seconds: less than what proxies allow an idle connection
TICK = 1.0  # seconds after which a quiet stream looks whether it must end


@dataclass(frozen=True)
class Event:
    """One event; `id` is what a client that reconnects sends back, None where it is not the last one of its index."""

    name: str
    id: int | None
    data: object

    @cached_property
    def wire(self) -> bytes:
        """As it goes over the wire, encoded once for all streams: JSON has no line breaks, so one `data` line is enough."""
        line = "" if self.id is None else f"id: {self.id}\n"
        return f"event: {self.name}\n{line}data: {json.dumps(self.data)}\n\n".encode()


class Streams:
    """How many streams and long polls run, each of which holds a connection: bounded for one caller and for all together."""

    def __init__(self, *, per_caller: int, total: int) -> None:
        self._per_caller = per_caller
        self._total = total
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._open.total()

    @contextmanager
    def one(self, caller: str) -> Generator[None]:
        """Hold one within the block.

        Raises ProblemError 429 where the caller has as many as it may have, 503 where all of them together are too many.
        """
        if self._open[caller] >= self._per_caller:
            detail = f"you have {self._per_caller} streams and long polls: close some, or share one"
            raise ProblemError(429, "rate-limited", "Too many streams", detail, retry_after=5)
        if len(self) >= self._total:
            raise ProblemError(503, "overloaded", "Too many streams", "this replica holds as many streams as it can: try again", retry_after=5)
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class EventStream(StreamingResponse):
    """Sends `events` as they come, and a comment now and then so that a dead client is noticed.

    It ends when the process drains and when the caller's token does; a client that comes back is then asked for a new one.
    """

    def __init__(self, events: AsyncIterator[Event], *, streams: Streams, caller: Principal, request: Request, draining: Callable[[], bool]) -> None:
        super().__init__(
            _encoded(events, lambda: draining() or _ended(caller)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._streams = streams
        self._caller = holder(request, caller)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer, or the problem that there are too many."""
        try:
            with self._streams.one(self._caller):
                await super().__call__(scope, receive, send)
        except ProblemError as problem:
            await render(problem, path=scope["path"], trace_id=str(scope.get("trace_id", "")))(scope, receive, send)


def holder(request: Request, caller: Principal) -> str:
    """Whom the stream of a request counts for."""
    guard = request.app.state.guard
    assert isinstance(guard, Guard)
    return guard.identity(caller, request)


def last_seen(request: Request) -> int | None:
    """The index of the last event that a client has seen which comes back; None for a new one."""
    text = request.headers.get("last-event-id", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None


def _ended(caller: Principal) -> bool:
    return caller.expires is not None and time.time() >= caller.expires


async def _encoded(events: AsyncIterator[Event], over: Callable[[], bool]) -> AsyncGenerator[bytes]:
    yield b": connected\n\n"
    following: asyncio.Future[Event] | None = None
    quiet = 0.0
    try:
        while not over():
            following = following or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({following}, timeout=TICK)
            if done:
                quiet = 0.0
                event, following = following, None
                try:
                    yield event.result().wire
                except StopAsyncIteration:
                    return
            elif (quiet := quiet + TICK) >= KEEPALIVE:
                quiet = 0.0
                yield b": alive\n\n"
    finally:
        if following is not None:
            following.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await following
        if isinstance(events, AsyncGenerator):
            await events.aclose()
