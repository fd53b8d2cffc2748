"""A kind of engine, for what the accounts program promises of all of them; `kinds` has the four."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import asyncpg
from aiormq.exceptions import AMQPError
from pydantic import TypeAdapter
from redis import exceptions

from tests.app.accounts.runs import Run, accounts, login, mount, password
from tests.app.pki import Authority, Leaf
from tests.app.processes import Server

Alive = Callable[[], Awaitable[None]]  # returns while the session works, raises one of GONE when it was ended
GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, AMQPError, exceptions.RedisError, RuntimeError)


class Refused(Exception):
    """The engine does not let the client in."""


class Kind(ABC):
    """An engine and the accounts program for it."""

    name: ClassVar[str]

    def __init__(self, authority: Authority | None = None) -> None:
        self.authority = authority or Authority()
        self.server: Server = self.make()

    @abstractmethod
    def make(self) -> Server:
        """The server, with a certificate of `authority`."""

    @abstractmethod
    def client(self, name: str, generation: int) -> dict[str, object]:
        """The client's entry in accounts.json."""

    @abstractmethod
    def session(self, name: str, secret: str, generation: int) -> AsyncGenerator[Alive]:
        """A session as the client. Raises Refused."""

    @abstractmethod
    async def accounts(self) -> Mapping[str, object]:
        """Every account in the engine by name, with all that a run could change of it."""

    @abstractmethod
    async def make_old(self, name: str) -> None:
        """Makes the client's account as the program did before there were generations; its password is that of generation 0."""

    @abstractmethod
    async def forget(self) -> None:
        """Takes away what the engine remembers of the newest generation."""

    @abstractmethod
    async def clear(self) -> None:
        """Takes all accounts away, and what the engine remembers."""

    def issue(self) -> Leaf:
        """Another certificate for the server."""
        return self.authority.issue(self.name)

    def mount(self, leaf: Leaf) -> None:
        """The server finds this certificate among its files."""
        mount(self.server, leaf)

    def port(self) -> int:
        """The port that the program manages the engine by."""
        return self.server.port

    def state(self, names: Sequence[str], generation: int = 1, *, retire: bool = False, certificate: str | None = None) -> dict[str, object]:
        """accounts.json."""
        return {
            "host": self.server.host,
            "port": self.port(),
            "admin": self.server.username,
            "generation": generation,
            "retire": retire,
            "certificate": certificate,
            "clients": [self.client(name, generation) for name in names],
        }

    async def run(self, root: Path, state: Mapping[str, object], *, wait_seconds: float = 60) -> Run:
        """Runs the program, whatever comes of it."""
        return await asyncio.to_thread(accounts, self.name, self.server, root, state, wait_seconds=wait_seconds)

    async def apply(self, root: Path, names: Sequence[str], generation: int = 1, *, retire: bool = False, certificate: str | None = None) -> Run:
        """Runs the program with success."""
        run = await self.run(root, self.state(names, generation, retire=retire, certificate=certificate))
        assert run.code == 0, run.output
        return run

    @asynccontextmanager
    async def logged_in(self, name: str, generation: int = 1) -> AsyncGenerator[Alive]:
        """A session as the client of a generation. Raises Refused."""
        async with asynccontextmanager(self.session)(name, password(name, generation), generation) as alive:
            yield alive

    async def lets_in(self, name: str, generation: int = 1) -> bool:
        """Whether the client of a generation may log in."""
        try:
            async with self.logged_in(name, generation) as alive:
                await alive()
        except Refused:
            return False
        return True

    def trust(self) -> ssl.SSLContext:
        """Verifies the server."""
        return ssl.create_default_context(cafile=str(self.server.ca))


def entries(answer: object) -> list[dict[str, object]]:
    """A JSON list of objects."""
    return TypeAdapter(list[dict[str, object]]).validate_python(answer)


def account(name: str, generation: int) -> str:
    """The account's name; generation 0 is from before there were generations."""
    return login(name, generation) if generation else name
