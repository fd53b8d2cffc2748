"""Several questions at once to one API server, under one deadline."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from stacks.cluster.api import CONNECTIONS, ApiServer, Forbidden, NotThere
from stacks.cluster.facts import UnusableCluster

DEADLINE_SECONDS = 30

Parsed = TypeVar("Parsed", bound=BaseModel)


@dataclass(frozen=True)
class Question(Generic[Parsed]):
    """GET `path`. `right` is what one must be allowed to for it, in the words of RBAC."""

    path: str
    answer: type[Parsed]
    right: str


@dataclass(frozen=True)
class Asked(Generic[Parsed]):
    """A question that is under way."""

    question: Question[Parsed]
    future: Future[Parsed]


class Inquiry:
    """Asks in parallel, and collects warnings about what could not be learnt. Close it."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._pool = ThreadPoolExecutor(max_workers=CONNECTIONS, thread_name_prefix="cluster")
        self._until = time.monotonic() + DEADLINE_SECONDS
        self.warnings: list[str] = []

    def ask(self, question: Question[Parsed]) -> Asked[Parsed]:
        """Sends the question; does not wait."""
        return Asked(question, self._pool.submit(self._server.ask, question.path, question.answer))

    def answer(self, asked: Asked[Parsed]) -> Parsed | None:
        """The answer, or None where there is no such thing. Raises Forbidden, or UnusableCluster."""
        try:
            return asked.future.result(timeout=max(0.0, self._until - time.monotonic()))
        except NotThere:
            return None
        except TimeoutError:
            raise UnusableCluster(
                f"the API server of context {self._server.context!r} has not answered GET {asked.question.path} within "
                f"{DEADLINE_SECONDS} s of the first question: is it overloaded, or the way to it slow?"
            ) from None

    def required(self, asked: Asked[Parsed]) -> Parsed:
        """The answer. Raises UnusableCluster where one may not know it, or there is none."""
        found = self.if_there(asked)
        if found is None:
            raise UnusableCluster(
                f"the API server of context {self._server.context!r} has no {asked.question.path}: is that a Kubernetes API server?"
            )
        return found

    def if_there(self, asked: Asked[Parsed]) -> Parsed | None:
        """The answer, or None where there is no such thing. Raises UnusableCluster where one may not know it."""
        try:
            return self.answer(asked)
        except Forbidden:
            raise UnusableCluster(
                f"you may not {asked.question.right} in context {self._server.context!r}, without which nothing can be deployed: "
                "have it granted, or choose another context"
            ) from None

    def optional(self, asked: Asked[Parsed], otherwise: str) -> Parsed | None:
        """The answer, or None and a warning that says what happens `otherwise`. Raises UnusableCluster where the server fails."""
        try:
            found = self.answer(asked)
        except Forbidden:
            self.warnings.append(f"you may not {asked.question.right} in context {self._server.context!r}: {otherwise}")
            return None
        if found is None:
            self.warnings.append(f"context {self._server.context!r} does not serve {asked.question.path}: {otherwise}")
        return found

    def close(self) -> None:
        """Waits for nobody."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._server.close()
