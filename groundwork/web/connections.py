"""Bounds for connections that uvicorn leaves open: how many there are, how long a request's head may take, and how long a reader may take nothing."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from groundwork.metrics import Metrics

PROGRESS = 1024  # bytes that a reader must take in each period, so that it cannot hold a connection with one byte at a time


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`most` connections at once. A request's head must be here within `head` seconds, and a reader of a full buffer may stall for `stall`."""

    most: int
    head: float
    stall: float


class BoundedProtocol(H11Protocol):
    """uvicorn's own protocol within limits. `bounded` makes the class with its limits."""

    limits: ClassVar[ConnectionLimits]
    metrics: ClassVar[Metrics]
    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _unread = 0

    @property
    def idle(self) -> bool:
        """Kept alive between two requests: closing it costs nobody an answer."""
        return self.timeout_keep_alive_task is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn types it
        """A client has connected. Where there are too many, an idle connection goes, or the new one."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.most and not self._make_room():
            self._cut("full")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget_head()
        self._forget_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        super().data_received(data)
        self._await_head()

    def on_response_complete(self) -> None:
        """An answer was written, though perhaps not read."""
        super().on_response_complete()
        if self.idle and self.conn.trailing_data[0]:  # half of the next head came early: it has no more time than any other
            self._unset_keepalive_if_required()
        self._await_head()
        if self.transport.is_closing():
            self._await_reader()

    def shutdown(self) -> None:
        """The server stops: what nobody reads must not keep it."""
        super().shutdown()
        if self.transport.is_closing():
            self._await_reader()

    def pause_writing(self) -> None:
        """The buffer is full."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has been read."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._forget_reader()

    def _make_room(self) -> bool:
        idle = next((one for one in self._others() if one.idle), None)
        if idle is not None:
            idle.timeout_keep_alive_handler()
        return idle is not None

    def _others(self) -> Iterator[BoundedProtocol]:
        for one in self.connections:
            if isinstance(one, BoundedProtocol):
                yield one

    def _cut(self, reason: str) -> None:
        self.metrics.connections_cut_total.labels(reason=reason).inc()
        self.transport.abort()

    def _await_head(self) -> None:
        """While a request's head is on its way, and from the start, time runs; between two requests uvicorn's own."""
        answering = self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] - None at first
        if answering or self.idle or self.transport.is_closing():
            self._forget_head()
        elif self._head is None:
            self._head = self.loop.call_later(self.limits.head, self._cut, "head")

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _await_reader(self) -> None:
        self._forget_reader()
        if self.transport.get_write_buffer_size():
            self._unread = _unread(self.transport)
            self._reader = self.loop.call_later(self.limits.stall, self._look_at_reader)

    def _look_at_reader(self) -> None:
        if self._unread - _unread(self.transport) < PROGRESS:
            self._cut("stalled")
        else:
            self._await_reader()

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the other side has not taken. The kernel keeps megabytes, and asks for more only when a third of them is gone."""
    queued = 0
    socket = transport.get_extra_info("socket")
    if socket is not None:
        with suppress(OSError):  # where the system does not tell, ours must do
            queued = struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    return transport.get_write_buffer_size() + queued


def bounded(limits: ConnectionLimits, metrics: Metrics) -> type[BoundedProtocol]:
    """The protocol with these limits, for `uvicorn.Config(http=...)`."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits, "metrics": metrics})
