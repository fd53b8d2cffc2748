"""The public keys of an issuer, fetched seldom and never because an attacker wants it."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from typing import Final

import aiohttp
import msgspec
import structlog
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from groundwork.settings import IssuerSettings, read_secret

FRESH: Final = 300.0  # seconds after which keys are fetched again when a token arrives
COOLDOWN: Final = 30.0  # seconds between two fetches, whatever tokens ask for
DEADLINE: Final = 5.0
MAX_BYTES: Final = 256 * 1024
MIN_RSA_BITS: Final = 2048
CURVES: Final = frozenset({"P-256", "Ed25519"})

PublicKey = RSAKey | ECKey | OKPKey
log = structlog.stdlib.get_logger(__name__)


class KeysUnavailable(Exception):
    """The issuer's keys could not be fetched and none are known: nobody can be verified now."""


class _Set(msgspec.Struct):
    keys: list[dict[str, object]]


class IssuerKeys:
    """The key set behind one `jwks_url`. Keys once fetched stay in use while the issuer cannot be reached."""

    def __init__(self, settings: IssuerSettings) -> None:
        self.settings = settings
        self.fetches = 0
        self._keys: dict[str, PublicKey] = {}
        self._unnamed: list[PublicKey] = []
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, kty: str) -> PublicKey | None:
        """The key named `kid`, or the only one of type `kty` where the token names none. None where the issuer has no such key.

        Raises KeysUnavailable while no key was ever fetched.
        """
        now = asyncio.get_running_loop().time()
        known = self._known(kid, kty)
        stale = self._fetched_at is None or now - self._fetched_at > FRESH
        if known is None or stale:
            fetching = self._refresh(now)
            if fetching is not None and known is None:  # with a known key nobody waits for the refresh
                await asyncio.wait({fetching}, timeout=DEADLINE + 1)
                known = self._known(kid, kty)
        if known is None and self._fetched_at is None:
            raise KeysUnavailable(f"the keys of issuer {self.settings.issuer} cannot be fetched: is {self.settings.jwks_url} reachable?")
        return known

    async def close(self) -> None:
        """Stop a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching}, timeout=1.0)

    def _known(self, kid: str | None, kty: str) -> PublicKey | None:
        if kid is not None:
            return self._keys.get(kid)
        candidates = [key for key in (*self._keys.values(), *self._unnamed) if key.key_type == kty]
        return candidates[0] if len(candidates) == 1 else None

    def _refresh(self, now: float) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one unless the last try was just now."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        wait = COOLDOWN if self._fetched_at is not None else 1.0  # without any key a restart of the issuer must not cost 30 s
        if self._tried_at is not None and now - self._tried_at < wait:
            return None
        self._tried_at = now
        self._fetching = asyncio.get_running_loop().create_task(self._fetch(), name="jwks")
        return self._fetching

    async def _fetch(self) -> None:
        self.fetches += 1
        try:
            async with asyncio.timeout(DEADLINE):
                body = await self._get()
            found = msgspec.json.decode(body, type=_Set).keys
        except Exception as error:  # whatever went wrong, the keys that are known stay in use
            log.warning("key set not fetched", issuer=self.settings.issuer, error=type(error).__name__)
            return
        named: dict[str, PublicKey] = {}
        unnamed: list[PublicKey] = []
        for data in found:
            key = _public_key(data)
            if key is None:
                continue
            kid = data.get("kid")
            if isinstance(kid, str):
                named[kid] = key
            else:
                unnamed.append(key)
        if not named and not unnamed:
            log.warning("key set holds no usable key", issuer=self.settings.issuer)
            return
        self._keys, self._unnamed = named, unnamed
        self._fetched_at = asyncio.get_running_loop().time()

    async def _get(self) -> bytes:
        headers = {"Accept": "application/jwk-set+json, application/json"}
        if self.settings.jwks_token_file is not None:
            headers["Authorization"] = f"Bearer {read_secret(self.settings.jwks_token_file).get_secret_value()}"
        context = True if self.settings.jwks_ca is None else ssl.create_default_context(cafile=str(self.settings.jwks_ca))
        # A session of its own: a fetch every five minutes is no reason to keep a connection, and the CA file may have changed.
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE)) as session,
            session.get(self.settings.jwks_url, headers=headers, ssl=context, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = await response.content.read(MAX_BYTES + 1)
            while not response.content.at_eof() and len(body) <= MAX_BYTES:
                body += await response.content.read(MAX_BYTES + 1 - len(body))
            if len(body) > MAX_BYTES:
                raise ValueError("key set too large")
            return body


def _public_key(data: dict[str, object]) -> PublicKey | None:
    """A signing key from its JSON; None for encryption keys, secrets, types that no allowed algorithm uses, and what is no key at all."""
    if data.get("use", "sig") != "sig":
        return None
    known = {name: value for name, value in data.items() if isinstance(value, str)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # a key that is too small is refused below
            keys = KeySet.import_key_set({"keys": [known]}).keys  # pyright: ignore[reportArgumentType]
    except (JoseError, ValueError, TypeError, LookupError):  # a curve that joserfc does not know is a KeyError
        return None
    key = keys[0]
    if isinstance(key, RSAKey):
        return key if key.public_key.key_size >= MIN_RSA_BITS else None
    if isinstance(key, ECKey | OKPKey):
        return key if key.curve_name in CURVES else None
    return None
