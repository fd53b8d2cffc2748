"""One side of the REST benchmark, in a process of its own: `ours`, the registry's APIs, or `peer`, the least that an ASGI program can do."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from app.main import application
from groundwork import Platform
from groundwork.settings import Settings


def bare(token: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> ASGIApp:
    """Answers with `body` whoever shows the one token that it remembers."""
    known = {f"Bearer {token}".encode()}

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        allowed = any(name == b"authorization" and value in known for name, value in scope["headers"])
        await send({"type": "http.response.start", "status": 200 if allowed else 401, "headers": headers if allowed else []})
        await send({"type": "http.response.body", "body": body if allowed else b""})

    return answer


async def serve(app: ASGIApp, port: int) -> None:
    """Both sides are served alike."""
    options = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none")
    await uvicorn.Server(options).serve()


async def ours(settings: Settings) -> None:
    """The registry as `python -m app` makes it, but for its port and the access log."""
    logging.getLogger("access").setLevel(logging.WARNING)
    async with Platform(settings) as platform, application("registry", platform) as app:
        await serve(app, settings.http_port)


async def main(side: str, folder: Path, port: int) -> None:
    """Serves until terminated."""
    if side == "ours":
        await ours(Settings.model_validate_json((folder / "settings.json").read_bytes()))
    else:
        headers = [line.split(b": ", 1) for line in (folder / "headers").read_bytes().splitlines()]
        await serve(bare((folder / "token").read_text(), (folder / "body").read_bytes(), [(name, value) for name, value in headers]), port)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
