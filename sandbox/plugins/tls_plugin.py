"""A stand-in for the plugin `tls` 5.6.2: keys, requests and certificates, on `cryptography`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from hashlib import sha1

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from typing_extensions import override

from sandbox.plugins import certificates
from sandbox.plugins.certificates import Key
from sandbox.plugins.protocol import Invalid, Properties, Provider, Resource, flag, known, number, serve, text, words
from sandbox.recipes import TLS_PLUGIN

CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {"P224": ec.SECP224R1, "P256": ec.SECP256R1, "P384": ec.SECP384R1, "P521": ec.SECP521R1}
ALGORITHMS = ("RSA", "ECDSA", "ED25519")


class PrivateKey(Resource):
    """`tls:index/privateKey:PrivateKey`."""

    type = "tls:index/privateKey:PrivateKey"
    computed = (
        "privateKeyPem",
        "privateKeyPemPkcs8",
        "privateKeyOpenssh",
        "publicKeyPem",
        "publicKeyOpenssh",
        "publicKeyFingerprintMd5",
        "publicKeyFingerprintSha256",
    )
    secret = frozenset({"privateKeyPem", "privateKeyPemPkcs8", "privateKeyOpenssh"})

    @override
    def defaults(self) -> Properties:
        """What the official plugin fills in."""
        return {"ecdsaCurve": "P224", "rsaBits": 2048.0}

    @override
    def check(self, inputs: Properties) -> None:
        """Refuses what the official plugin does not know."""
        if known(inputs, "algorithm") and text(inputs, "algorithm") not in ALGORITHMS:
            raise Invalid("algorithm", f"must be one of {', '.join(ALGORITHMS)}, is {text(inputs, 'algorithm')!r}")
        if known(inputs, "ecdsaCurve") and text(inputs, "ecdsaCurve", "P224") not in CURVES:
            raise Invalid("ecdsaCurve", f"must be one of {', '.join(CURVES)}, is {text(inputs, 'ecdsaCurve')!r}")
        if known(inputs, "rsaBits") and number(inputs, "rsaBits", 2048) < 1024:
            raise Invalid("rsaBits", f"must be at least 1024, is {number(inputs, 'rsaBits')}")

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The id is the SHA-1 of the public key."""
        key = generate(text(inputs, "algorithm"), text(inputs, "ecdsaCurve", "P224"), number(inputs, "rsaBits", 2048))
        public = key.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        outputs: Properties = {
            "privateKeyPem": certificates.private_pem(key),
            "privateKeyPemPkcs8": certificates.private_pem(key, pkcs8=True),
            "publicKeyPem": pem.decode(),
            **_openssh(key),
        }
        return sha1(der, usedforsecurity=False).hexdigest(), outputs


class CertRequest(Resource):
    """`tls:index/certRequest:CertRequest`."""

    type = "tls:index/certRequest:CertRequest"
    computed = ("certRequestPem", "keyAlgorithm")
    secret = frozenset({"privateKeyPem"})

    @override
    def check(self, inputs: Properties) -> None:
        """Refuses a key that cannot be read and names that are none."""
        _check_key(inputs, "privateKeyPem")
        certificates.check_names(inputs)

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The id is the SHA-1 of the request."""
        key = certificates.load_key(text(inputs, "privateKeyPem"))
        builder = x509.CertificateSigningRequestBuilder().subject_name(certificates.subject(inputs.get("subject")))
        if names := certificates.alternative_names(inputs):
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pem = builder.sign(key, certificates.signature_hash(key)).public_bytes(serialization.Encoding.PEM)
        return sha1(pem, usedforsecurity=False).hexdigest(), {"certRequestPem": pem.decode(), "keyAlgorithm": certificates.algorithm(key)}


class _Certificate(Resource):
    """What both kinds of certificates have: a validity, and a renewal before its end."""

    computed: tuple[str, ...] = ("certPem", "keyAlgorithm", "readyForRenewal", "validityStartTime", "validityEndTime")
    updatable = frozenset({"earlyRenewalHours"})

    def __init__(self, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._now = now

    @override
    def defaults(self) -> Properties:
        """What the official plugin fills in."""
        return {"earlyRenewalHours": 0.0, "isCaCertificate": False, "setSubjectKeyId": False}

    @override
    def check(self, inputs: Properties) -> None:
        """Refuses uses that RFC 5280 does not know and a validity below nothing."""
        if known(inputs, "allowedUses"):
            certificates.check_uses(words(inputs, "allowedUses"))
        for field in ("validityPeriodHours", "earlyRenewalHours"):
            if known(inputs, field) and number(inputs, field) < 0:
                raise Invalid(field, f"must not be negative, is {number(inputs, field)}")

    @override
    def expired(self, state: Properties, inputs: Properties) -> str | None:
        """Within `earlyRenewalHours` of its end a certificate is replaced by the next `up`."""
        end = text(state, "validityEndTime")
        if not end or not known(inputs, "earlyRenewalHours"):
            return None
        due = dt.datetime.fromisoformat(end) - dt.timedelta(hours=number(inputs, "earlyRenewalHours"))
        return "readyForRenewal" if self._now() >= due else None

    def request(self, inputs: Properties, subject_name: x509.Name, public_key: certificates.PublicKey) -> certificates.Request:
        """What every certificate says, from `inputs`."""
        start = self._now().replace(microsecond=0)
        return certificates.Request(
            subject=subject_name,
            public_key=public_key,
            start=start,
            end=start + dt.timedelta(hours=number(inputs, "validityPeriodHours")),
            uses=tuple(words(inputs, "allowedUses")),
            authority=flag(inputs, "isCaCertificate"),
            path_length=None if inputs.get("maxPathLength") is None else number(inputs, "maxPathLength"),
            subject_key_id=flag(inputs, "setSubjectKeyId"),
        )

    def outputs(self, made: x509.Certificate, key: Key) -> Properties:
        """What a finished certificate tells the program."""
        return {
            "certPem": made.public_bytes(serialization.Encoding.PEM).decode(),
            "keyAlgorithm": certificates.algorithm(key),
            "readyForRenewal": False,
            "validityStartTime": _time(made.not_valid_before_utc),
            "validityEndTime": _time(made.not_valid_after_utc),
        }


class SelfSignedCert(_Certificate):
    """`tls:index/selfSignedCert:SelfSignedCert`."""

    type = "tls:index/selfSignedCert:SelfSignedCert"
    secret = frozenset({"privateKeyPem"})

    @override
    def defaults(self) -> Properties:
        """What the official plugin fills in."""
        return {**super().defaults(), "setAuthorityKeyId": False}

    @override
    def check(self, inputs: Properties) -> None:
        """Refuses a key that cannot be read and names that are none."""
        super().check(inputs)
        _check_key(inputs, "privateKeyPem")
        certificates.check_names(inputs)

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The id is the serial number."""
        key = certificates.load_key(text(inputs, "privateKeyPem"))
        name = certificates.subject(inputs.get("subject"))
        made = certificates.issue(
            self.request(inputs, name, key.public_key()),
            names=certificates.alternative_names(inputs),
            issuer=name,
            key=key,
            authority_key_id=x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()) if flag(inputs, "setAuthorityKeyId") else None,
        )
        return str(made.serial_number), self.outputs(made, key)


class LocallySignedCert(_Certificate):
    """`tls:index/locallySignedCert:LocallySignedCert`."""

    type = "tls:index/locallySignedCert:LocallySignedCert"
    computed = ("certPem", "caKeyAlgorithm", "readyForRenewal", "validityStartTime", "validityEndTime")
    secret = frozenset({"caPrivateKeyPem"})

    @override
    def check(self, inputs: Properties) -> None:
        """Refuses a key, an authority or a request that cannot be read."""
        super().check(inputs)
        _check_key(inputs, "caPrivateKeyPem")
        readers: tuple[tuple[str, Callable[[bytes], object]], ...] = (
            ("caCertPem", x509.load_pem_x509_certificate),
            ("certRequestPem", x509.load_pem_x509_csr),
        )
        for field, read in readers:
            if known(inputs, field):
                try:
                    read(text(inputs, field).encode())
                except ValueError as error:
                    raise Invalid(field, f"cannot be read: {error}") from None

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The id is the serial number. Subject and names are those of the request."""
        key = certificates.load_key(text(inputs, "caPrivateKeyPem"))
        authority = x509.load_pem_x509_certificate(text(inputs, "caCertPem").encode())
        csr = x509.load_pem_x509_csr(text(inputs, "certRequestPem").encode())
        public_key = csr.public_key()
        assert isinstance(public_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
        made = certificates.issue(
            self.request(inputs, csr.subject, public_key),
            names=certificates.requested_names(csr),
            issuer=authority.subject,
            key=key,
            authority_key_id=certificates.authority_key_id(authority),
        )
        outputs = self.outputs(made, key)
        return str(made.serial_number), {**outputs, "caKeyAlgorithm": outputs.pop("keyAlgorithm")}


def generate(algorithm: str, curve: str, bits: int) -> Key:
    """A new private key; `curve` is for ECDSA, `bits` for RSA."""
    if algorithm == "RSA":
        return rsa.generate_private_key(65537, bits)
    if algorithm == "ED25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(CURVES[curve]())


def _openssh(key: Key) -> Properties:
    """The same key as SSH writes it; empty for a curve that SSH does not know."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP224R1):
        return dict.fromkeys(("privateKeyOpenssh", "publicKeyOpenssh", "publicKeyFingerprintMd5", "publicKeyFingerprintSha256"), "")
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return {
        "privateKeyOpenssh": private.decode(),
        "publicKeyOpenssh": f"{public}\n",
        "publicKeyFingerprintMd5": certificates.ssh_fingerprint(public, "md5"),
        "publicKeyFingerprintSha256": certificates.ssh_fingerprint(public, "sha256"),
    }


def _check_key(inputs: Properties, field: str) -> None:
    if not known(inputs, field):
        return
    try:
        certificates.load_key(text(inputs, field))
    except (ValueError, TypeError):
        raise Invalid(field, "is no private key in PEM (RSA, ECDSA or ED25519, without a passphrase)") from None


def _time(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def provider() -> Provider:
    """The stand-in."""
    return Provider("tls", TLS_PLUGIN, (PrivateKey(), CertRequest(), SelfSignedCert(), LocallySignedCert()))


if __name__ == "__main__":
    serve(provider())
