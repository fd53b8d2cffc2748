"""Which keys of an issuer count, and what a key set may look like. Every token here has a good signature: only the rule itself refuses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import pytest

from groundwork.auth import InvalidToken, KeysUnavailable, TokenVerifier
from groundwork.auth import keys as module
from tests.app.auth.issuer import Issuer, issuer


@pytest.fixture
def running() -> Generator[Issuer]:
    """An issuer of this test alone."""
    with issuer() as one:
        yield one


@asynccontextmanager
async def verifier(running: Issuer) -> AsyncGenerator[TokenVerifier]:
    one = TokenVerifier([running.settings])
    yield one
    await one.close()


async def accepted(running: Issuer, token: str) -> bool:
    """Whether a fresh process accepts the token."""
    async with verifier(running) as one:
        try:
            return (await one.verify(token)).subject == "tester"
        except InvalidToken:
            return False


@pytest.mark.parametrize(
    ("kind", "alg", "good"), [("RSA", "RS256", True), ("weak", "RS256", False), ("OKP", "EdDSA", True), ("Ed448", "EdDSA", False)]
)
async def test_r41_a_key_that_is_too_weak_or_of_another_kind_signs_for_nobody(running: Issuer, kind: str, alg: str, good: bool) -> None:
    running.add("other", kind)
    assert await accepted(running, running.token("other", alg=alg)) is good
    assert await accepted(running, running.token())  # the others of the set count all the same


@pytest.mark.parametrize(("use", "good"), [("sig", True), ("enc", False)])
async def test_r41_a_key_for_encryption_signs_for_nobody(running: Issuer, use: str, good: bool) -> None:
    running.add("other")
    running.uses["other"] = use
    assert await accepted(running, running.token("other")) is good


@pytest.mark.parametrize(("count", "good"), [(1, True), (2, False)])
async def test_r41_a_token_without_a_key_id_is_for_the_only_key(running: Issuer, count: int, good: bool) -> None:
    if count == 2:
        running.add("two")
    running.unnamed = set(running.keys)
    assert await accepted(running, running.token(header={"kid": None})) is good


@pytest.mark.parametrize(
    "strange",
    [
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "of a later year", "x": "AA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "!"},
        {"kty": "RSA"},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "of a later year"},
        {"kty": 7, "kid": 7},
        {},
    ],
)
async def test_r41_a_key_that_nobody_knows_leaves_the_others_of_its_set_in_use(running: Issuer, strange: dict[str, object]) -> None:
    running.strange = [strange]
    assert await accepted(running, running.token())


async def test_r41_a_redirected_key_set_is_not_followed(running: Issuer) -> None:
    with issuer() as stranger:
        running.status, running.location = 302, f"{stranger.url}/jwks"
        async with verifier(running) as one:
            with pytest.raises(KeysUnavailable):
                await one.verify(stranger.token(iss=running.url))
        assert (running.requests, stranger.requests) == (1, 0)


@pytest.mark.parametrize("status", [201, 404, 500])
async def test_r41_only_a_plain_answer_is_a_key_set(running: Issuer, status: int) -> None:
    running.status = status
    async with verifier(running) as one:
        with pytest.raises(KeysUnavailable):
            await one.verify(running.token())


async def test_r41_a_key_set_without_end_is_not_read(running: Issuer) -> None:
    running.padding = module.MAX_BYTES
    async with verifier(running) as one:
        with pytest.raises(KeysUnavailable):
            await one.verify(running.token())


@pytest.mark.parametrize("header", [{"crit": ["b64"], "b64": True}, {"typ": "id+jwt"}, {"typ": "logout+jwt"}, {"typ": 7}])
async def test_r41_a_header_that_we_do_not_understand_is_refused_though_its_signature_is_good(running: Issuer, header: dict[str, object]) -> None:
    assert not await accepted(running, running.signed(header))


async def test_r41_the_same_token_with_a_plain_header_is_accepted(running: Issuer) -> None:
    assert await accepted(running, running.signed({}))
