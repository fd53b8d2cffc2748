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
_SECRET_TEXT = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+(?=@)"  # the password of a URL
    r"|(?P<bearer>bearer\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",  # a JSON web token
    re.IGNORECASE,
)


def redact_text(text: str) -> str:
    """`text` without passwords of URLs and without bearer tokens. The second line of defence: the first is not to log them."""

    def blank(match: re.Match[str]) -> str:
        return (match["scheme"] or match["bearer"] or "") + REDACTED

    return _SECRET_TEXT.sub(blank, text)


def _redact(value: object) -> object:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, SecretStr | SecretBytes):
        return REDACTED
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): REDACTED if _SECRET_KEY.search(str(key)) else _redact(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_redact(item) for item in cast("Sequence[object]", value)]
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
