"""Logs: one JSON object a line, with the ids of the request, and no secret even where somebody logs one (item 37)."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Generator

import pytest
import structlog
from pydantic import SecretStr

from groundwork import logs
from groundwork.settings import PostgresSettings, Settings

CANARY = "c4n4ry-5ecret"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJlLWJ5dGVz"


@pytest.fixture
def written() -> Generator[io.StringIO]:
    """What the process logs, from a fresh configuration; the old one comes back."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.configure("test", version="1", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_and_knows_its_service_and_request(written: io.StringIO) -> None:
    structlog.contextvars.bind_contextvars(trace_id="t", request_id="r")
    structlog.stdlib.get_logger("a.b").info("hello", count=1)
    (line,) = lines(written)
    expected = {"event": "hello", "count": 1, "service": "test", "version": "1", "logger": "a.b", "level": "info", "trace_id": "t", "request_id": "r"}
    assert {name: line[name] for name in expected} == expected
    assert str(line["timestamp"]).endswith("Z")


def test_libraries_log_the_same_way(written: io.StringIO) -> None:
    logging.getLogger("aiohttp.client").warning("hello %s", "you")
    assert lines(written)[0]["event"] == "hello you"


@pytest.mark.parametrize(
    "name", ["password", "db_password", "PASSWD", "token", "access_token", "authorization", "api_key", "client_secret", "private_key", "cookie"]
)
def test_r37_a_value_whose_name_says_secret_is_blanked(written: io.StringIO, name: str) -> None:
    structlog.stdlib.get_logger().info("x", **{name: CANARY}, inner={name: CANARY}, many=[{name: CANARY}])
    assert CANARY not in written.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        f"cannot connect to postgresql://app:{CANARY}@db:5432/app",
        f"amqps://user:{CANARY}@rabbitmq/vhost refused",
        f"Authorization: Bearer {CANARY}-{CANARY}",
        f"token {TOKEN} refused",
        f"\\n{TOKEN}",
        f"postgresql://app:a/{CANARY}@db:5432/app",
        f"postgresql://app:a@{CANARY}@db:5432/app",
        f"postgresql://app:{CANARY}/b@c/d@db",
        f"redis://:{CANARY}@redis",
        f'amqp://user:a"{CANARY}@rabbitmq',
        f"http://a:8000,amqp://user:{CANARY}@b",
        f"bearer  {CANARY}",
    ],
)
def test_r37_a_secret_inside_a_text_is_blanked(written: io.StringIO, text: str) -> None:
    structlog.stdlib.get_logger().info(text, detail=text)
    logging.getLogger("library").error(text)
    assert CANARY not in written.getvalue()
    assert TOKEN not in written.getvalue()


@pytest.mark.parametrize("text", ["http://registry:8000/api/v1/services", "postgresql://app@db:5432/app", "mail to a@b.example: done", "a.b.c " * 9])
def test_what_holds_no_secret_stays(text: str) -> None:
    assert logs.redact_text(text) == text


@pytest.mark.parametrize("piece", ["a", "://", "://a:", "a:@", "eyJ", "eyJaaaaaaaa.", "bearer ", "bearer", "a.", "a-", "eyJhbGciOi.a", " :/@"])
def test_r58_redaction_costs_time_by_the_length_of_a_text(piece: str) -> None:
    """A quarter of a million characters take milliseconds; where time grows with their square it is minutes."""
    text = piece * (250_000 // len(piece))
    begin = time.perf_counter()
    logs.redact_text(text)
    assert time.perf_counter() - begin < 10


def test_r58_what_is_nested_without_end_is_cut(written: io.StringIO) -> None:
    loop: dict[str, object] = {"password": CANARY}
    loop["again"] = loop
    structlog.stdlib.get_logger().info("x", loop=loop)
    assert lines(written)[0]["event"] == "x"
    assert CANARY not in written.getvalue()


def test_r37_a_traceback_is_blanked_too(written: io.StringIO) -> None:
    def fails() -> None:
        raise RuntimeError(f"postgresql://app:{CANARY}@db")

    try:
        fails()
    except RuntimeError:
        structlog.stdlib.get_logger().exception("failed")
    assert "RuntimeError" in written.getvalue()
    assert CANARY not in written.getvalue()


def test_r37_a_secret_value_shows_itself_nowhere(written: io.StringIO) -> None:
    structlog.stdlib.get_logger().info("x", value=SecretStr(CANARY), shown=f"{SecretStr(CANARY)!r}")
    assert CANARY not in written.getvalue()


def test_r37_settings_hold_no_secret_to_show() -> None:
    known = Settings(service="test", postgres=PostgresSettings(host="db", database="app"))
    assert "password" not in repr(known).lower()


def test_what_is_switched_off_costs_nothing_and_writes_nothing(written: io.StringIO) -> None:
    logging.getLogger("access").setLevel(logging.WARNING)
    try:
        structlog.stdlib.get_logger("access").info("request")
    finally:
        logging.getLogger("access").setLevel(logging.NOTSET)
    assert written.getvalue() == ""
