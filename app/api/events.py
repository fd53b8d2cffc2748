"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from fastapi.responses import StreamingResponse

KEEPALIVE = 15.0  # seconds: less than what proxies allow an idle connection


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is what a client that reconnects sends back."""

    name: str
    id: int
    data: object

    def encode(self) -> bytes:
        """As it goes over the wire: JSON has no line breaks, so one `data` line is enough."""
        return f"event: {self.name}\nid: {self.id}\ndata: {json.dumps(self.data)}\n\n".encode()


def stream(events: AsyncIterator[Event], draining: Callable[[], bool]) -> StreamingResponse:
    """Sends `events` as they come, and a comment now and then so that a dead client is noticed. It ends when the process drains."""
    return StreamingResponse(
        _encoded(events, draining), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


async def _encoded(events: AsyncIterator[Event], draining: Callable[[], bool]) -> AsyncGenerator[bytes]:
    yield b": connected\n\n"
    following: asyncio.Future[Event] | None = None
    quiet = 0.0
    try:
        while not draining():
            following = following or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({following}, timeout=1.0)
            if done:
                quiet = 0.0
                event, following = following, None
                try:
                    yield event.result().encode()
                except StopAsyncIteration:
                    return
            elif (quiet := quiet + 1.0) >= KEEPALIVE:
                quiet = 0.0
                yield b": alive\n\n"
    finally:
        if following is not None:
            following.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await following
        if isinstance(events, AsyncGenerator):
            await events.aclose()
