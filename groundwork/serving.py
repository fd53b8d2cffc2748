"""Runs a service's web server and ends it so that no client notices. Needs the extra `app`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from ipaddress import ip_address

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from groundwork.metrics import CONTENT_TYPE, Metrics
from groundwork.settings import Settings
from groundwork.web.connections import BoundedProtocol, ConnectionLimits, bounded

FINISH_SECONDS = 25  # for requests under way after the drain; drain + this + closing stays below the pod's grace period of 40 s
KEEP_ALIVE = 75  # seconds: longer than clients keep idle connections, so that it is the client who closes them

log = structlog.stdlib.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would stop accepting before the platform is told."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals belong to `serve`."""
        yield


def _server(app: ASGIApp, host: str, port: int, protocol: type[BoundedProtocol]) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=protocol,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the peer's address is what the connection says
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=FINISH_SECONDS,
            ws="none",
        )
    )


def bind_address(settings: Settings) -> str:
    """All interfaces in a pod, of the family of its own address; only this machine while that is loopback, because development has no
    authentication.
    """
    try:
        address = ip_address(settings.address)
    except ValueError:  # a host name
        return "127.0.0.1" if settings.address == "localhost" else "0.0.0.0"  # noqa: S104 - a pod's network policy decides who reaches it
    if address.version == 6:
        return "::1" if address.is_loopback else "::"
    return "127.0.0.1" if address.is_loopback else "0.0.0.0"  # noqa: S104 - as above


def _url(settings: Settings, port: int) -> str:
    return f"http://{f'[{settings.address}]' if ':' in settings.address else settings.address}:{port}"


async def serve(app: ASGIApp, settings: Settings, metrics: Metrics, *, leave: Callable[[], Awaitable[None]]) -> None:
    """Serve `app` and the metrics until SIGTERM or SIGINT, then: `leave` (unready, deregistered, drained), finish what runs, return.

    A second signal ends the drain at once.
    """
    host = bind_address(settings)
    limits = ConnectionLimits(settings.max_connections, settings.header_seconds, settings.stall_seconds)
    protocol = bounded(limits, metrics)
    main = _server(app, host, settings.http_port, protocol)
    side = _server(_metrics_app(metrics), host, settings.metrics_port, protocol)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = [loop.create_task(server.serve(), name="http") for server in (main, side)]
    stopping = loop.create_task(stop.wait())
    log.info("serving", url=_url(settings, settings.http_port), metrics=f"{_url(settings, settings.metrics_port)}/metrics")
    try:
        await asyncio.wait([*servers, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            log.info("stopping", drain_seconds=settings.drain_seconds)
            stop.clear()
            again = loop.create_task(stop.wait())
            leaving = asyncio.ensure_future(leave())
            await asyncio.wait([leaving, again], return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
            leaving.cancel()
    finally:
        stopping.cancel()
        main.should_exit = side.should_exit = True
        await asyncio.wait(servers, timeout=FINISH_SECONDS + 2)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    for task in servers:
        if task.done():
            task.result()  # a port that is taken must end the process with an error


def run(main: Coroutine[object, object, None]) -> None:
    """Run a service to its end, on uvloop."""
    uvloop.run(main)


def _metrics_app(metrics: Metrics) -> ASGIApp:
    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        found = scope["path"] == "/metrics"
        body = metrics.text() if found else b""
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": [(b"content-type", CONTENT_TYPE.encode())]})
        await send({"type": "http.response.body", "body": body})

    return answer
