"""Lets a request in: who is it, may they, and not too often."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from fastapi import Request

from groundwork.auth import ANONYMOUS, InvalidToken, KeysUnavailable, Principal, TokenVerifier
from groundwork.metrics import Metrics
from groundwork.web.problem import ProblemError

MAX_SUBJECTS = 10_000  # whose rates are remembered; the least recent is forgotten


class RateLimit:
    """A token bucket per subject: `rate` a second, bursts of twice that. Buckets of different `lane` do not touch each other."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = max(1.0, 2 * rate)
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, subject: str, lane: str, now: float) -> float:
        """Take one; 0 when there was one, else the seconds until there is."""
        tokens, at = self._buckets.pop((subject, lane), (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[(subject, lane)] = (tokens - 1 if tokens >= 1 else tokens, now)
        while len(self._buckets) > MAX_SUBJECTS:
            self._buckets.popitem(last=False)
        return wait


class Guard:
    """Authentication, scopes and rate limits of one process's APIs. Without a verifier everybody is `anonymous` and may do everything."""

    def __init__(self, verifier: TokenVerifier | None, *, metrics: Metrics, rate: float) -> None:
        self._verifier = verifier
        self._metrics = metrics
        self._limit = RateLimit(rate)

    async def principal(self, request: Request) -> Principal:
        """Who calls.

        Raises ProblemError 401 without a good token, 503 while tokens cannot be checked.
        """
        if self._verifier is None:
            return ANONYMOUS
        values = [value for name, value in request.scope["headers"] if name == b"authorization"]
        scheme, _, token = values[0].decode("latin-1").partition(" ") if len(values) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token:
            self._metrics.auth_failures_total.labels(reason="missing").inc()
            raise ProblemError(
                401,
                "unauthenticated",
                "A token is needed",
                "send `Authorization: Bearer <token>`",
                headers={"WWW-Authenticate": 'Bearer realm="platform"'},
            )
        try:
            return await self._verifier.verify(token.strip())
        except InvalidToken as error:
            self._metrics.auth_failures_total.labels(reason="invalid").inc()
            challenge = f'Bearer realm="platform", error="invalid_token", error_description="{error}"'
            raise ProblemError(401, "unauthenticated", "The token is refused", str(error), headers={"WWW-Authenticate": challenge}) from None
        except KeysUnavailable:
            self._metrics.auth_failures_total.labels(reason="keys").inc()
            raise ProblemError(
                503, "backend-unavailable", "Tokens cannot be checked now", "the issuer's keys cannot be fetched; try again", retry_after=1
            ) from None

    async def admit(self, request: Request, scopes: Sequence[str], lane: str) -> Principal:
        """The caller, who has one of `scopes` and is within the rate of `lane`.

        Raises ProblemError 401, 403, 429 or 503.
        """
        principal = await self.principal(request)
        if not any(principal.may(scope) for scope in scopes):
            self._metrics.auth_failures_total.labels(reason="scope").inc()
            challenge = f'Bearer realm="platform", error="insufficient_scope", scope="{scopes[0]}"'
            detail = f"the token lacks scope {' or '.join(scopes)}"
            raise ProblemError(403, "permission-denied", "A scope is missing", detail, headers={"WWW-Authenticate": challenge})
        wait = self._limit.take(self.identity(principal, request), lane, asyncio.get_running_loop().time())
        if wait > 0:
            self._metrics.rate_limited_total.inc()
            raise ProblemError(429, "rate-limited", "Too many requests", "slow down and try again", retry_after=max(1, round(wait + 0.5)))
        return principal

    def identity(self, principal: Principal, request: Request) -> str:
        """Whom limits count: the caller, or its address while nobody says who calls."""
        return "\n".join(principal.identity) if self._verifier is not None else _address(request)


def requires(*scopes: str, lane: str = "default") -> Callable[[Request], Awaitable[Principal]]:
    """A FastAPI dependency: the caller, who has one of `scopes` and is within the rate. Heartbeats use a `lane` of their own and never starve."""

    async def admitted(request: Request) -> Principal:
        guard = cast("Guard", request.app.state.guard)
        return await guard.admit(request, scopes, lane)

    return admitted


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
