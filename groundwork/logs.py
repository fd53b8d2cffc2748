"""Logs as one JSON object a line on stdout, with the ids of the request they belong to and without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Literal, TextIO, cast

import structlog
from pydantic import SecretBytes, SecretStr

REDACTED = "**redacted**"
_SECRET_KEY = re.compile(r"pass(word|wd)?$|secret|token$|authorization|api_?key|private_?key|credential|cookie", re.IGNORECASE)
MAX_DEPTH = 20  # of what is logged; deeper than that is somebody else's data

# Each pattern takes its run whole and never looks at a character of it again: a text costs time by its length, whatever it says.
_AUTHORITY = re.compile(r"://\S+")
_BEARER = re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_DOTTED = re.compile(r"[A-Za-z0-9_.-]{20,}")


def redact_text(text: str) -> str:
    """`text` without passwords of URLs and without bearer tokens. The second line of defence: the first is not to log them."""
    return _DOTTED.sub(_without_token, _BEARER.sub(_without_bearer, _AUTHORITY.sub(_without_password, text)))


def _without_password(found: re.Match[str]) -> str:
    """A password may hold `/` and `@`, so it goes on to the last `@`: rather too much is blanked than a part of it shown."""
    rest = found[0]
    begin, end = rest.find(":", 1), rest.rfind("@")
    return rest if not 0 < begin < end else f"{rest[: begin + 1]}{REDACTED}{rest[end:]}"


def _without_bearer(found: re.Match[str]) -> str:
    return found[1] + REDACTED


def _without_token(found: re.Match[str]) -> str:
    """A JSON web token begins with an encoded `{"` and has two dots."""
    run = found[0]
    begin = run.find("eyJ")
    return run if begin < 0 or run.count(".", begin) < 2 else run[:begin] + REDACTED


def _redact(value: object, depth: int = 0) -> object:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, SecretStr | SecretBytes):
        return REDACTED
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): REDACTED if _SECRET_KEY.search(str(key)) else _redact(item, depth + 1) for key, item in items}
    if isinstance(value, list | tuple):
        return [_redact(item, depth + 1) for item in cast("Sequence[object]", value)]
    return value


def redact(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """A structlog processor: blanks values whose key names a secret, and secrets inside texts."""
    for key, value in event.items():
        event[key] = REDACTED if _SECRET_KEY.search(key) else _redact(value)
    return event


def configure(service: str, *, version: str = "", level: Literal["debug", "info", "warning"] = "info", stream: TextIO | None = None) -> None:
    """Sends the process's logs, those of libraries too, as JSON to `stream` (stdout). Call once, at start."""
    static = {"service": service, "version": version}

    def add_static(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
        for key, value in static.items():
            event.setdefault(key, value)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_static,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,  # last, so that tracebacks pass through it too
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiormq", "aio_pika", "asyncio", "aiohttp"):
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its words about starting and stopping say less than ours
    for name in ("aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log addresses with each failed try; the health check says it better
