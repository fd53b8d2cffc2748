"""A certificate authority for tests: what pulumi-tls makes for a stack, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from ssl import PEM_cert_to_DER_cert

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Leaf:
    """A server's certificate and key, in PEM. The key has the form that pulumi-tls gives (SEC 1)."""

    certificate: str
    key: str

    @property
    def sha256(self) -> str:
        """Of the certificate as it goes over the wire, in hexadecimal digits."""
        return sha256(PEM_cert_to_DER_cert(self.certificate)).hexdigest()

    def write(self, folder: Path, mode: int = 0o600) -> None:
        """As `tls.crt` and `tls.key`, like a mounted Secret of type kubernetes.io/tls."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tls.crt").write_text(self.certificate)
        (folder / "tls.key").write_text(self.key)
        (folder / "tls.key").chmod(mode)


class Authority:
    """One CA with a key on P-256."""

    def __init__(self, name: str = "Groundwork test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(Encoding.PEM).decode()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )

    def issue(self, name: str, dns: tuple[str, ...] = ("localhost",), ips: tuple[str, ...] = ("127.0.0.1",)) -> Leaf:
        """A leaf for a server (and, as Consul's servers need, for a client) with these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*(x509.DNSName(d) for d in dns), *(x509.IPAddress(ip_address(i)) for i in ips)]
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        return Leaf(certificate.public_bytes(Encoding.PEM).decode(), pem)

    def write(self, folder: Path) -> Path:
        """The CA's certificate as `ca.crt`, like the mounted ConfigMap."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_text(self.certificate)
        return folder / "ca.crt"
