"""What can go wrong with an answer, as data: a fault matches some requests and changes what happens to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Self


class Break(Enum):
    """Ways in which the bytes of an answer go wrong."""

    TRUNCATE = "the connection ends in the middle of the body"
    SLOW = "one byte of the body every 50 ms, for ever"
    SILENT = "nothing is answered and the connection stays open"
    DROP = "the connection is closed without an answer"
    GZIP = "the body is compressed without being asked to, and huge"
    GARBAGE = "bytes that are not HTTP"


@dataclass
class Fault:
    """A fault for requests whose path begins with `path` (and is a blocking one if `blocking`), for the next `times` of them.

    The request is first delayed; then `breaks`, `status` or `body` replace the answer, and `headers` override its headers
    (None removes one). Without any of them the answer is the true one.
    """

    path: str = "/"
    method: str | None = None
    blocking: bool | None = None
    consistent: bool | None = None
    times: int | None = None
    delay: float = 0.0
    status: int | None = None
    body: bytes | None = None
    breaks: Break | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    hits: int = 0

    def spent(self) -> bool:
        """Whether it has done its part."""
        return self.times is not None and self.hits >= self.times

    @classmethod
    def no_leader(cls, *, path: str = "/", times: int | None = None) -> Self:
        """The servers elect a leader."""
        return cls(path=path, status=500, body=b"No cluster leader", times=times, headers={"X-Consul-Index": None})

    @classmethod
    def denied(cls, *, path: str = "/", times: int | None = None) -> Self:
        """The token is refused."""
        return cls(path=path, status=403, body=b"Permission denied: token lacks permission", times=times, headers={"X-Consul-Index": None})

    @classmethod
    def overloaded(cls, *, retry_after: float | None = None, status: int = 429, path: str = "/", times: int | None = None) -> Self:
        """Too many requests."""
        given = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        return cls(path=path, status=status, body=b"rate limit exceeded", times=times, headers={"X-Consul-Index": None, **given})

    @classmethod
    def empty(cls, *, path: str = "/v1/health", times: int | None = None, consistent: bool | None = False) -> Self:
        """A server that has lost its memory answers with an empty list, as around an election; a consistent read sees the truth."""
        return cls(path=path, status=200, body=b"[]", times=times, consistent=consistent)

    @classmethod
    def filtered(cls, *, path: str = "/", times: int | None = None) -> Self:
        """An access list removed everything from the answer."""
        return cls(path=path, status=200, body=b"[]", times=times, headers={"X-Consul-Results-Filtered-By-ACLs": "true"})
