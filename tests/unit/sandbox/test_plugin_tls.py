"""The stand-in for the tls plugin: what it issues is judged by `cryptography`'s verifier and by real TLS handshakes."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.verification import ClientVerifier, PolicyBuilder, Store, VerificationError
from pulumi.runtime.proto import provider_pb2 as messages

from sandbox.plugins import tls_plugin
from sandbox.plugins.protocol import UNKNOWN, Provider
from tests.unit.sandbox.plugin_client import Made, Plugin, serving

KEY = "tls:index/privateKey:PrivateKey"
REQUEST = "tls:index/certRequest:CertRequest"
SELF_SIGNED = "tls:index/selfSignedCert:SelfSignedCert"
SIGNED = "tls:index/locallySignedCert:LocallySignedCert"
AUTHORITY_USES = ["cert_signing", "crl_signing", "digital_signature"]
START = dt.datetime(2026, 3, 1, 12, 0, 0, tzinfo=dt.UTC)
DAY = 24


@pytest.fixture(scope="module")
def plugin() -> Iterator[Plugin]:
    with serving(tls_plugin.provider()) as client:
        yield client


def key(plugin: Plugin, algorithm: str = "ECDSA", **inputs: object) -> str:
    curve = {"ecdsaCurve": "P256"} if algorithm == "ECDSA" else {}
    return str(plugin.create(KEY, {"algorithm": algorithm, **curve, **inputs}).outputs["privateKeyPem"])


def authority_inputs(private: str, **inputs: object) -> dict[str, object]:
    return {
        "privateKeyPem": private,
        "subject": {"commonName": "groundwork", "organization": "Example"},
        "isCaCertificate": True,
        "allowedUses": AUTHORITY_USES,
        "validityPeriodHours": 3650 * DAY,
        "setSubjectKeyId": True,
        **inputs,
    }


def leaf(plugin: Plugin, private: str, authority: Made, authority_key: str, **inputs: object) -> Made:
    names = {"dnsNames": ["redis.platform.svc", "localhost"], "ipAddresses": ["127.0.0.1", "fd00::1"], "uris": ["spiffe://example/redis"]}
    asked = plugin.create(REQUEST, {"privateKeyPem": private, "subject": {"commonName": "redis"}, **names})
    return plugin.create(
        SIGNED,
        {
            "caCertPem": authority.outputs["certPem"],
            "caPrivateKeyPem": authority_key,
            "certRequestPem": asked.outputs["certRequestPem"],
            "allowedUses": ["digital_signature", "key_encipherment", "server_auth"],
            "validityPeriodHours": 90 * DAY,
            "earlyRenewalHours": 30 * DAY,
            **inputs,
        },
    )


def parsed(made: Made) -> x509.Certificate:
    return x509.load_pem_x509_certificate(str(made.outputs["certPem"]).encode())


@pytest.fixture(scope="module")
def authority_key(plugin: Plugin) -> str:
    return key(plugin)


@pytest.fixture(scope="module")
def authority(plugin: Plugin, authority_key: str) -> Made:
    return plugin.create(SELF_SIGNED, authority_inputs(authority_key))


@pytest.mark.parametrize(
    ("algorithm", "kind", "first_line"),
    [
        ("RSA", rsa.RSAPrivateKey, "-----BEGIN RSA PRIVATE KEY-----"),
        ("ECDSA", ec.EllipticCurvePrivateKey, "-----BEGIN EC PRIVATE KEY-----"),
        ("ED25519", ed25519.Ed25519PrivateKey, "-----BEGIN PRIVATE KEY-----"),
    ],
)
def test_a_key_is_written_in_the_traditional_form_of_its_kind(plugin: Plugin, algorithm: str, kind: type, first_line: str) -> None:
    made = plugin.create(KEY, {"algorithm": algorithm, "ecdsaCurve": "P256"})
    pem = str(made.outputs["privateKeyPem"])
    assert pem.splitlines()[0] == first_line
    assert isinstance(serialization.load_pem_private_key(pem.encode(), None), kind)
    assert str(made.outputs["privateKeyPemPkcs8"]).startswith("-----BEGIN PRIVATE KEY-----")


def test_every_form_of_a_private_key_is_secret_and_no_public_one(plugin: Plugin) -> None:
    assert plugin.create(KEY, {"algorithm": "ED25519"}).secrets == {"privateKeyPem", "privateKeyPemPkcs8", "privateKeyOpenssh"}


def test_public_and_private_key_belong_together_in_every_form(plugin: Plugin) -> None:
    made = plugin.create(KEY, {"algorithm": "ECDSA", "ecdsaCurve": "P384"})
    private = serialization.load_pem_private_key(str(made.outputs["privateKeyPem"]).encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    ssh = serialization.load_ssh_private_key(str(made.outputs["privateKeyOpenssh"]).encode(), None)
    for public in (
        serialization.load_pem_public_key(str(made.outputs["publicKeyPem"]).encode()),
        serialization.load_ssh_public_key(str(made.outputs["publicKeyOpenssh"]).encode()),
        ssh.public_key(),
    ):
        assert public == private.public_key()


def test_the_default_curve_is_one_that_ssh_does_not_know(plugin: Plugin) -> None:
    made = plugin.create(KEY, {"algorithm": "ECDSA"})
    assert made.outputs["ecdsaCurve"] == "P224"
    assert made.outputs["publicKeyOpenssh"] == ""


def test_a_server_certificate_verifies_for_its_names_only(plugin: Plugin, authority: Made, authority_key: str) -> None:
    certificate = parsed(leaf(plugin, key(plugin), authority, authority_key))
    policy = PolicyBuilder().store(Store([parsed(authority)]))
    chain = policy.build_server_verifier(x509.DNSName("redis.platform.svc")).verify(certificate, [])
    assert len(chain) == 2
    policy.build_server_verifier(x509.IPAddress(ipaddress.ip_address("127.0.0.1"))).verify(certificate, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("postgres.platform.svc")).verify(certificate, [])


def test_a_certificate_is_good_for_its_uses_only(plugin: Plugin, authority: Made, authority_key: str) -> None:
    certificate = parsed(leaf(plugin, key(plugin), authority, authority_key))
    client: ClientVerifier = PolicyBuilder().store(Store([parsed(authority)])).build_client_verifier()
    with pytest.raises(VerificationError):
        client.verify(certificate, [])


def test_key_ids_join_a_certificate_to_its_authority(plugin: Plugin, authority: Made, authority_key: str) -> None:
    issuer = parsed(authority).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = parsed(leaf(plugin, key(plugin), authority, authority_key, setSubjectKeyId=True))
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == issuer.digest
    own = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value == own


def test_a_leaf_is_no_authority_and_says_so(plugin: Plugin, authority: Made, authority_key: str) -> None:
    constraints = parsed(leaf(plugin, key(plugin), authority, authority_key)).extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca


def test_an_authority_may_sign_and_keeps_its_path_length(plugin: Plugin, authority_key: str) -> None:
    certificate = parsed(plugin.create(SELF_SIGNED, authority_inputs(authority_key, maxPathLength=0, setAuthorityKeyId=True)))
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    subject = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == subject.digest


def test_the_request_decides_subject_and_names(plugin: Plugin, authority: Made, authority_key: str) -> None:
    certificate = parsed(leaf(plugin, key(plugin, "RSA"), authority, authority_key))
    assert certificate.subject.rfc4514_string() == "CN=redis"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example/redis"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "fd00::1"]


def test_the_authoritys_key_is_secret_and_the_certificate_is_not(plugin: Plugin, authority: Made, authority_key: str) -> None:
    assert leaf(plugin, key(plugin), authority, authority_key).secrets == {"caPrivateKeyPem"}
    assert authority.secrets == {"privateKeyPem"}


@pytest.mark.parametrize("algorithm", ["RSA", "ECDSA", "ED25519"])
def test_a_real_handshake_succeeds_with_the_right_authority_only(
    plugin: Plugin, authority: Made, authority_key: str, algorithm: str, tmp_path: Path
) -> None:
    private = key(plugin, algorithm)
    (tmp_path / "tls.key").write_text(private)
    (tmp_path / "tls.crt").write_text(str(leaf(plugin, private, authority, authority_key).outputs["certPem"]))
    stranger = plugin.create(SELF_SIGNED, authority_inputs(key(plugin)))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert handshake(server, trusting(authority)) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, trusting(stranger))


def trusting(authority: Made) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=str(authority.outputs["certPem"]))
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """The version that the two agree on, over loopback."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        try:
            with server.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)
        except ssl.SSLError:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), timeout=10) as raw, client.wrap_socket(raw, server_hostname="localhost") as secured:
                return secured.version()
        finally:
            thread.join(15)


class Clock:
    """The time that the plugin believes in."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> Iterator[Plugin]:
    resources = (tls_plugin.PrivateKey(), tls_plugin.CertRequest(), tls_plugin.SelfSignedCert(clock), tls_plugin.LocallySignedCert(clock))
    with serving(Provider("tls", "0", resources)) as client:
        yield client


def test_the_validity_is_what_was_asked_for(timed: Plugin) -> None:
    made = timed.create(SELF_SIGNED, authority_inputs(key(timed), validityPeriodHours=48))
    assert made.outputs["validityStartTime"] == "2026-03-01T12:00:00Z"
    assert made.outputs["validityEndTime"] == "2026-03-03T12:00:00Z"
    assert made.outputs["readyForRenewal"] is False
    assert parsed(made).not_valid_after_utc == START + dt.timedelta(hours=48)


@pytest.mark.parametrize(("days", "replaced"), [(0, []), (59, []), (61, ["readyForRenewal"]), (91, ["readyForRenewal"])])
def test_a_certificate_is_replaced_once_it_is_inside_its_renewal_window(timed: Plugin, clock: Clock, days: int, replaced: list[str]) -> None:
    inputs = authority_inputs(key(timed), validityPeriodHours=90 * DAY, earlyRenewalHours=30 * DAY)
    made = timed.create(SELF_SIGNED, inputs)
    clock.now = START + dt.timedelta(days=days)
    difference = timed.diff(SELF_SIGNED, inputs, inputs, state=made.outputs)
    assert list(difference.replaces) == replaced


def test_a_renewed_certificate_stays(timed: Plugin, clock: Clock) -> None:
    inputs = authority_inputs(key(timed), validityPeriodHours=90 * DAY, earlyRenewalHours=30 * DAY)
    clock.now = START + dt.timedelta(days=61)
    renewed = timed.create(SELF_SIGNED, inputs)
    assert timed.diff(SELF_SIGNED, inputs, inputs, state=renewed.outputs).changes == messages.DiffResponse.DIFF_NONE


def test_another_renewal_window_alone_makes_no_new_certificate(timed: Plugin) -> None:
    inputs = authority_inputs(key(timed), validityPeriodHours=90 * DAY, earlyRenewalHours=30 * DAY)
    made = timed.create(SELF_SIGNED, inputs)
    news = {**inputs, "earlyRenewalHours": 20 * DAY}
    difference = timed.diff(SELF_SIGNED, inputs, news, state=made.outputs)
    assert list(difference.diffs) == ["earlyRenewalHours"]
    assert not difference.replaces
    updated = timed.update(SELF_SIGNED, made.outputs, news)
    assert updated.outputs["certPem"] == made.outputs["certPem"]
    assert updated.outputs["earlyRenewalHours"] == 20 * DAY


def test_another_name_makes_a_new_certificate(plugin: Plugin, authority_key: str) -> None:
    olds = authority_inputs(authority_key, dnsNames=["a.example"])
    difference = plugin.diff(SELF_SIGNED, olds, {**olds, "dnsNames": ["b.example"]})
    assert list(difference.replaces) == ["dnsNames"]


def test_a_preview_of_a_chain_needs_no_keys(plugin: Plugin) -> None:
    inputs = {"caCertPem": UNKNOWN, "caPrivateKeyPem": UNKNOWN, "certRequestPem": UNKNOWN, "allowedUses": ["server_auth"], "validityPeriodHours": 1}
    assert plugin.check(SIGNED, inputs) == []
    made = plugin.create(SIGNED, inputs, preview=True)
    assert made.id == ""
    assert made.outputs["certPem"] == UNKNOWN


@pytest.mark.parametrize(
    ("type_", "inputs", "field"),
    [
        (KEY, {"algorithm": "DSA"}, "algorithm"),
        (KEY, {"algorithm": "ECDSA", "ecdsaCurve": "P111"}, "ecdsaCurve"),
        (KEY, {"algorithm": "RSA", "rsaBits": 512}, "rsaBits"),
        (REQUEST, {"privateKeyPem": "no key"}, "privateKeyPem"),
        (REQUEST, {"privateKeyPem": UNKNOWN, "ipAddresses": ["300.0.0.1"]}, "ipAddresses"),
        (SELF_SIGNED, {"privateKeyPem": UNKNOWN, "allowedUses": ["fly"], "validityPeriodHours": 1}, "allowedUses"),
        (SELF_SIGNED, {"privateKeyPem": UNKNOWN, "allowedUses": [], "validityPeriodHours": -1}, "validityPeriodHours"),
        (
            SIGNED,
            {"caPrivateKeyPem": UNKNOWN, "caCertPem": "no certificate", "certRequestPem": UNKNOWN, "allowedUses": [], "validityPeriodHours": 1},
            "caCertPem",
        ),
    ],
)
def test_inputs_that_cannot_work_are_refused_with_the_field(plugin: Plugin, type_: str, inputs: dict[str, object], field: str) -> None:
    assert [failure.property for failure in plugin.check(type_, inputs)] == [field]


def test_other_stacks_are_refused(plugin: Plugin) -> None:
    with pytest.raises(grpc.RpcError, match="pulumi install"):
        plugin.create(KEY, {"algorithm": "RSA"}, stack="prod")
