"""Verifies bearer tokens: signature, issuer, audience, times and type, then what the bearer may do (RFC 8725, RFC 9068)."""

from __future__ import annotations

import base64
import json
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, cast

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning

from groundwork.auth.keys import IssuerKeys, KeysUnavailable
from groundwork.auth.principal import Principal, owned_service
from groundwork.settings import IssuerSettings

__all__ = ["InvalidToken", "KeysUnavailable", "TokenVerifier"]

ALGORITHMS: Final = {"RS256": "RSA", "ES256": "EC", "Ed25519": "OKP", "EdDSA": "OKP"}
"""Allowed algorithms and the type of key each needs. `EdDSA` is the older name of Ed25519 (RFC 9864) and means nothing else here."""
TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
MAX_TOKEN: Final = 8192  # bytes
LEEWAY: Final = 30.0  # seconds that clocks may differ
CACHE_SIZE: Final = 4096
CACHE_SECONDS: Final = 60.0

JsonObject = dict[str, object]


class InvalidToken(Exception):
    """The token is refused. The message is one of a few fixed texts and never quotes the token."""


class TokenVerifier:
    """Turns tokens of the configured issuers into principals. A verified token is remembered at most 60 s and never past its end."""

    def __init__(self, issuers: Sequence[IssuerSettings], *, clock: Callable[[], float] = time.time) -> None:
        self._issuers = {settings.issuer: settings for settings in issuers}
        self._keys = {settings.issuer: IssuerKeys(settings) for settings in issuers}
        self._clock = clock
        self._cache: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._registry = jws.JWSRegistry(algorithms=list(ALGORITHMS))

    async def close(self) -> None:
        """Stop fetches under way."""
        for keys in self._keys.values():
            await keys.close()

    async def verify(self, token: str) -> Principal:
        """The bearer of `token`.

        Raises InvalidToken, or KeysUnavailable while the issuer's keys are not known.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise InvalidToken("token is malformed")
        fingerprint = sha256(token.encode()).digest()
        now = self._clock()
        remembered = self._cache.get(fingerprint)
        if remembered is not None and now < remembered[0]:
            self._cache.move_to_end(fingerprint)
            return remembered[1]
        principal, expires = await self._verify(token, now)
        self._cache[fingerprint] = (min(expires, now + CACHE_SECONDS), principal)
        self._cache.move_to_end(fingerprint)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return principal

    async def _verify(self, token: str, now: float) -> tuple[Principal, float]:
        parts = token.split(".")
        if len(parts) != 3:
            raise InvalidToken("token is malformed")
        header, claims = _json(parts[0]), _json(parts[1])
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise InvalidToken("algorithm is not allowed")
        if "crit" in header or not (kid is None or isinstance(kid, str)):
            raise InvalidToken("header is not supported")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in TYPES:
            raise InvalidToken("token is not an access token")
        issuer = claims.get("iss")
        settings = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if settings is None:
            raise InvalidToken("issuer is not accepted")
        # Only now, and only from the configured issuer's own key set: `jku`, `x5u` and `jwk` in the header are never looked at.
        key = await self._keys[settings.issuer].find(kid, ALGORITHMS[algorithm])
        if key is None or key.key_type != ALGORITHMS[algorithm]:
            raise InvalidToken("signing key is unknown")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # `EdDSA` is an old name for a good algorithm, and issuers still use it
                jws.deserialize_compact(token, key, algorithms=[algorithm], registry=self._registry)
        except (JoseError, ValueError, TypeError):
            raise InvalidToken("signature is not valid") from None
        return _principal(settings, claims, now)


def _principal(settings: IssuerSettings, claims: JsonObject, now: float) -> tuple[Principal, float]:
    """What the claims of a token with a good signature say.

    Raises InvalidToken where it is not for us or not valid now.
    """
    audience = claims.get("aud")
    audiences = cast("list[object]", audience) if isinstance(audience, list) else [audience]
    if settings.audience not in audiences:
        raise InvalidToken("audience is not ours")
    expires = _time(claims, "exp")
    if expires is None or now >= expires + LEEWAY:
        raise InvalidToken("token has expired")
    for claim in ("nbf", "iat"):
        begins = _time(claims, claim)
        if begins is not None and begins > now + LEEWAY:
            raise InvalidToken("token is not valid yet")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise InvalidToken("subject is missing")
    brought = _scopes(claims) & frozenset(settings.token_scopes)
    scopes = frozenset(settings.scopes) | frozenset(settings.subject_scopes.get(subject, ())) | brought
    service = owned_service(subject, claims.get("svc"), settings)
    return Principal(subject=subject, issuer=settings.issuer, scopes=scopes, service=service, expires=expires + LEEWAY), expires


def _scopes(claims: JsonObject) -> frozenset[str]:
    """`scope` as a text with spaces (RFC 8693), or `scp` as a list, as some issuers write it."""
    scope, listed = claims.get("scope"), claims.get("scp")
    if isinstance(scope, str):
        return frozenset(scope.split())
    if isinstance(listed, list):
        return frozenset(item for item in cast("list[object]", listed) if isinstance(item, str))
    return frozenset()


def _time(claims: JsonObject, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise InvalidToken(f"claim {name} is not a time")
    return float(value)


def _json(part: str) -> JsonObject:
    """A part of the token as an object in which every key stands once."""
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        value: object = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidToken("token is malformed") from None
    if not isinstance(value, dict):
        raise InvalidToken("token is malformed")
    return cast("JsonObject", value)


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
