"""The resource server against the attacks that are known (RFC 8725), with PyJWT as a second opinion. Item 41 of the reliability list."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import jwt as pyjwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from joserfc import jws
from pydantic import ValidationError

from groundwork.auth import InvalidToken, KeysUnavailable, Principal, TokenVerifier
from groundwork.auth import verifier as module
from groundwork.auth.principal import owned_service
from groundwork.settings import AuthSettings, IssuerSettings
from tests.app.auth.issuer import AUDIENCE, Issuer, issuer

Tamper = Callable[[Issuer], str]


@pytest.fixture(scope="module")
def running() -> Generator[Issuer]:
    with issuer("EC", "OKP") as one:
        yield one


@pytest_asyncio.fixture
async def verifier(running: Issuer) -> AsyncGenerator[TokenVerifier]:
    running.down = False
    one = TokenVerifier([running.settings.model_copy(update={"scopes": ("registry:read",)})])
    yield one
    await one.close()


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def with_parts(token: str, header: object = None, claims: object = None, signature: str | None = None) -> str:
    """The token with other parts, signature kept unless given."""
    old = token.split(".")
    return ".".join(
        (old[0] if header is None else part(header), old[1] if claims is None else part(claims), old[2] if signature is None else signature)
    )


def public_pem(running: Issuer) -> bytes:
    return running.keys["one"].as_pem(private=False)


def hmac_with_the_public_key(running: Issuer) -> str:
    """HS256 signed with the RSA public key, which a confused verifier takes for the secret."""
    signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(running.claims())}"
    return f"{signed}.{part(hmac.digest(public_pem(running), signed.encode(), 'sha256'))}"


def signed_by_a_stranger(running: Issuer, **header: object) -> str:
    with issuer() as stranger:
        return stranger.token(iss=running.url, header=header)


def jwk_in_the_header(running: Issuer) -> str:
    with issuer() as stranger:
        return stranger.token(iss=running.url, header={"jwk": stranger.keys["one"].as_dict(private=False)})


ATTACKS: dict[str, Tamper] = {
    "alg none": lambda i: with_parts(i.token(), {"alg": "none"}, signature=""),
    "alg NoNe": lambda i: with_parts(i.token(), {"alg": "NoNe", "kid": "one"}, signature=""),
    "HS256 with the public key": hmac_with_the_public_key,
    "header says another algorithm of the same key": lambda i: with_parts(i.token(), {"alg": "RS512", "kid": "one"}),
    "header says another type of key": lambda i: with_parts(i.token(), {"alg": "ES256", "kid": "one"}),
    "no alg": lambda i: with_parts(i.token(), {"kid": "one"}),
    "alg is a list": lambda i: with_parts(i.token(), {"alg": ["RS256"], "kid": "one"}),
    "signed by a stranger": signed_by_a_stranger,
    "jku to a stranger": lambda i: signed_by_a_stranger(i, jku="http://127.0.0.1:1/jwks"),
    "x5u to a stranger": lambda i: signed_by_a_stranger(i, x5u="http://127.0.0.1:1/chain"),
    "key in the header": jwk_in_the_header,
    "unknown kid": lambda i: with_parts(i.token(), {"alg": "RS256", "kid": "two"}),
    "kid leads to a file": lambda i: with_parts(i.token(), {"alg": "RS256", "kid": "../../etc/passwd"}),
    "kid is SQL": lambda i: with_parts(i.token(), {"alg": "RS256", "kid": "one' OR '1'='1"}),
    "kid is a number": lambda i: with_parts(i.token(), {"alg": "RS256", "kid": 1}),
    "unknown critical header": lambda i: with_parts(i.token(), {"alg": "RS256", "kid": "one", "crit": ["x"], "x": 1}),
    "claims changed": lambda i: with_parts(i.token(), claims=i.claims(sub="admin")),
    "signature cut": lambda i: i.token()[:-8],
    "signature empty": lambda i: with_parts(i.token(), signature=""),
    "expired": lambda i: i.token(exp=int(time.time()) - 31),
    "no exp": lambda i: i.token(exp=None),
    "exp is a text": lambda i: i.token(exp="9999999999"),
    "exp is true": lambda i: i.token(exp=True),
    "exp is huge": lambda i: i.token(exp=1e300),
    "not valid yet": lambda i: i.token(nbf=int(time.time()) + 60),
    "issued in the future": lambda i: i.token(iat=int(time.time()) + 60),
    "no sub": lambda i: i.token(sub=None),
    "sub is empty": lambda i: i.token(sub=""),
    "another issuer": lambda i: i.token(iss="https://elsewhere.example"),
    "no issuer": lambda i: i.token(iss=None),
    "another audience": lambda i: i.token(aud="kubernetes"),
    "no audience": lambda i: i.token(aud=None),
    "an ID token": lambda i: i.token(header={"typ": "id+jwt"}),
    "a logout token": lambda i: i.token(header={"typ": "logout+jwt"}),
    "two parts": lambda i: ".".join(i.token().split(".")[:2]),
    "five parts": lambda i: i.token() + ".a.b",
    "not base64": lambda i: "a!b." + i.token().split(".", 1)[1],
    "header is a list": lambda i: with_parts(i.token(), [1]),
    "claims are a text": lambda i: with_parts(i.token(), claims="x"),
    "a claim twice": lambda i: with_parts(i.token(), claims=b'{"iss":"a","iss":"b"}'),
    "NaN": lambda i: with_parts(i.token(), claims=b'{"exp":NaN}'),
    "nested deep": lambda i: with_parts(i.token(), claims=b'{"a":' * 3000 + b"1" + b"}" * 3000),
    "a megabyte": lambda i: i.token(x="y" * 1_000_000),
    "not ASCII": lambda i: i.token() + "é",
    "nothing": lambda _: "",
    "dots": lambda _: "..",
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_r41_refused(attack: str, running: Issuer, verifier: TokenVerifier) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(ATTACKS[attack](running))


def pyjwt_accepts(running: Issuer, token: str) -> bool:
    """What PyJWT says with the same rules."""
    keys = {kid: serialization.load_pem_public_key(key.as_pem(private=False)) for kid, key in running.keys.items()}
    try:
        header = pyjwt.get_unverified_header(token)
        key = keys[str(header["kid"])]
        pyjwt.decode(
            token,
            key,  # pyright: ignore[reportArgumentType] - one of the three types that it takes
            algorithms=["RS256", "ES256", "EdDSA"],
            audience=AUDIENCE,
            issuer=running.url,
            leeway=30,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except (pyjwt.PyJWTError, KeyError, TypeError):
        return False
    return True


DIFFERENT = {
    "an ID token": "PyJWT does not look at the type",
    "a logout token": "PyJWT does not look at the type",
    "sub is empty": "PyJWT takes an empty subject",
    "exp is a text": "PyJWT turns a text into a number",
    "exp is true": "PyJWT takes true for 1, so it is expired there",
    "exp is huge": "PyJWT has no upper bound",
    "a megabyte": "PyJWT has no bound",
}


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in DIFFERENT])
def test_r41_pyjwt_refuses_the_same(attack: str, running: Issuer) -> None:
    assert not pyjwt_accepts(running, ATTACKS[attack](running))


@pytest.mark.parametrize(("kid", "alg"), [("one", "RS256"), ("EC", "ES256"), ("OKP", "EdDSA")])
async def test_r41_both_accept_a_good_token(kid: str, alg: str, running: Issuer, verifier: TokenVerifier) -> None:
    token = running.token(kid, alg=alg)
    assert (await verifier.verify(token)).subject == "tester"
    assert pyjwt_accepts(running, token)


async def test_the_newer_name_of_the_algorithm_is_accepted(running: Issuer, verifier: TokenVerifier) -> None:
    assert (await verifier.verify(running.token("OKP", alg="Ed25519"))).subject == "tester"


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt", "AT+JWT"])
async def test_types_of_access_tokens(typ: str, running: Issuer, verifier: TokenVerifier) -> None:
    assert (await verifier.verify(running.token(header={"typ": typ}))).subject == "tester"


async def test_an_audience_may_be_one_of_several(running: Issuer, verifier: TokenVerifier) -> None:
    assert (await verifier.verify(running.token(aud=["other", AUDIENCE]))).subject == "tester"


async def test_clocks_may_differ_by_half_a_minute(running: Issuer, verifier: TokenVerifier) -> None:
    now = int(time.time())
    assert (await verifier.verify(running.token(exp=now - 20, nbf=now + 20))).subject == "tester"


async def test_scopes_of_the_token_are_added_to_those_of_its_issuer(running: Issuer, verifier: TokenVerifier) -> None:
    one = await verifier.verify(running.token(scope="registry:write config:read"))
    assert one.scopes == {"registry:read", "registry:write", "config:read"}
    other = await verifier.verify(running.token(scp=["config:write", 7]))
    assert other.scopes == {"registry:read", "config:write"}


async def test_a_service_account_owns_the_service_of_its_name(running: Issuer, verifier: TokenVerifier) -> None:
    caller = await verifier.verify(running.account("user-service"))
    assert caller.owns("user-service")
    assert not caller.owns("document-service")


@pytest.mark.parametrize(
    ("subject", "claimed", "service"),
    [
        ("system:serviceaccount:demo:user-service", None, "user-service"),
        ("system:serviceaccount:evil:user-service", None, None),
        ("system:serviceaccount:demo:user-service:x", None, None),
        ("serviceaccount:demo:user-service", None, None),
        ("system:serviceaccount::user-service", None, None),
        ("client-7", "billing", "billing"),
        ("client-7", "user-service", None),
        ("client-7", ["billing"], None),
        ("client-7", "", None),
        ("system:serviceaccount:demo:user-service", "document-service", "user-service"),
        ("user-service", None, None),
    ],
)
def test_r43_an_issuer_speaks_for_the_services_of_its_settings(subject: str, claimed: object, service: str | None) -> None:
    settings = IssuerSettings(issuer="i", jwks_url="http://i/jwks", audience="a", namespaces=("demo",), services=("billing",))
    assert owned_service(subject, claimed, settings) == service


@pytest.mark.parametrize("subject", ["system:serviceaccount:demo:user-service", "client-7"])
def test_r43_an_issuer_of_which_nothing_is_said_speaks_for_no_service(subject: str) -> None:
    assert owned_service(subject, "user-service", IssuerSettings(issuer="i", jwks_url="http://i/jwks", audience="a")) is None


async def test_r43_a_token_brings_only_the_scopes_that_its_issuer_may_give(running: Issuer) -> None:
    one = TokenVerifier([running.settings.model_copy(update={"token_scopes": ("registry:read",)})])
    try:
        caller = await one.verify(running.token(scope="registry:read registry:admin config:write"))
        assert caller.scopes == {"registry:read"}
    finally:
        await one.close()


def test_r43_one_issuer_has_one_entry(running: Issuer) -> None:
    with pytest.raises(ValidationError, match="stands twice"):
        AuthSettings(issuers=(running.settings, running.settings))


@pytest.mark.parametrize(
    ("scope", "service", "may"),
    [
        ("config:own", "billing", True),
        ("config:own", "user-service", False),
        ("config:own", "application", False),
        ("config:write", "user-service", True),
        ("config:write", "application", True),
        ("registry:admin", "billing", False),
        ("config:read", "billing", False),
    ],
)
def test_r43_who_configures_what(scope: str, service: str, may: bool) -> None:
    assert Principal("s", scopes=frozenset({scope}), service="billing").configures(service) is may


def test_r43_a_service_of_the_shared_name_owns_nothing_of_the_others() -> None:
    assert not Principal("s", scopes=frozenset({"config:own"}), service="application").configures("application")


def test_only_an_admin_or_the_owner_owns() -> None:
    assert Principal("root", scopes=frozenset({"registry:admin"})).owns("anything")
    assert not Principal("nobody", scopes=frozenset({"registry:write"})).owns("anything")


async def test_r41_unknown_key_ids_cause_one_fetch_only(running: Issuer, verifier: TokenVerifier) -> None:
    await verifier.verify(running.token())
    before = running.requests
    for number in range(200):
        with pytest.raises(InvalidToken):
            await verifier.verify(with_parts(running.token(), {"alg": "RS256", "kid": f"made-up-{number}"}))
    assert running.requests == before  # within the cooldown of the fetch that loaded the keys


async def test_r41_keys_once_known_stay_in_use_while_the_issuer_is_away(running: Issuer, verifier: TokenVerifier) -> None:
    await verifier.verify(running.token())
    running.down = True
    assert (await verifier.verify(running.token(sub="later"))).subject == "later"


async def test_r41_without_any_key_nobody_is_verified_and_nobody_is_called_a_liar(running: Issuer, verifier: TokenVerifier) -> None:
    running.down = True
    with pytest.raises(KeysUnavailable, match="reachable"):
        await verifier.verify(running.token())


async def test_r41_a_rotated_key_is_found_after_the_cooldown(verifier: TokenVerifier, running: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    await verifier.verify(running.token())
    running.add("new")
    try:
        monkeypatch.setattr("groundwork.auth.keys.COOLDOWN", 0.0)
        assert (await verifier.verify(running.token("new"))).subject == "tester"
    finally:
        del running.keys["new"]


async def test_many_first_tokens_at_once_fetch_the_keys_once(running: Issuer, verifier: TokenVerifier) -> None:
    before = running.requests
    await asyncio.gather(*(verifier.verify(running.token(sub=f"caller-{n}")) for n in range(20)))
    assert running.requests == before + 1


async def test_a_cluster_wants_a_token_for_its_key_set(running: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("cluster-token\n")
    one = TokenVerifier([running.settings.model_copy(update={"jwks_token_file": file})])
    await one.verify(running.token())
    await one.close()
    assert running.authorization[-1] == "Bearer cluster-token"


class Time:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


async def test_a_verified_token_is_remembered_for_a_minute(running: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Time(), 0
    one = TokenVerifier([running.settings], clock=clock)
    real = jws.deserialize_compact

    def counted(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return real(*args, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(module.jws, "deserialize_compact", counted)
    token = running.token(exp=int(clock.now) + 600)
    for seconds in (0, 59, 2):
        clock.now += seconds
        await one.verify(token)
    assert calls == 2  # at the start, and after the minute
    await one.close()


async def test_a_remembered_token_ends_with_its_life(running: Issuer) -> None:
    clock = Time()
    one = TokenVerifier([running.settings], clock=clock)
    token = running.token(exp=int(clock.now) + 10)
    await one.verify(token)
    clock.now += 10 + module.LEEWAY
    with pytest.raises(InvalidToken, match="expired"):
        await one.verify(token)
    await one.close()


async def test_the_memory_of_tokens_is_bounded(running: Issuer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_SIZE", 3)
    for number in range(6):
        await verifier.verify(running.token("EC", sub=f"s{number}"))
    assert len(verifier._cache) == 3  # pyright: ignore[reportPrivateUsage] - the bound itself is what is tested


@pytest.mark.parametrize(("subject", "scopes"), [("operator", {"config:read", "config:write"}), ("somebody", {"config:read"})])
async def test_further_scopes_are_for_the_named_subject_alone(running: Issuer, subject: str, scopes: set[str]) -> None:
    running.down = False
    settings = running.settings.model_copy(update={"scopes": ("config:read",), "subject_scopes": {"operator": ("config:write",)}})
    one = TokenVerifier([settings])
    try:
        assert (await one.verify(running.token(sub=subject))).scopes == scopes
    finally:
        await one.close()
