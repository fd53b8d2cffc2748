"""The cluster's certificate authority, the certificates of its parts, and their kubeconfig files."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox import network

AUTHORITY_YEARS = 10
LEAF_DAYS = 365
RENEW_DAYS = 30  # a leaf nearer to its end is made anew when the node starts
NODE_NAME = "node-1"
CONTEXT = "sandbox"


@dataclass(frozen=True)
class Leaf:
    """A certificate of one part of the cluster. `names` and `addresses` are what it may be reached as."""

    file: str
    common_name: str
    organisation: str | None = None
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


LEAVES = (
    Leaf(
        "apiserver",
        "kube-apiserver",
        names=("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"),
        addresses=(network.API_SERVICE_ADDRESS, network.NODE_ADDRESS, "127.0.0.1"),
    ),
    Leaf("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    Leaf("admin", "admin", "system:masters"),
    Leaf("controller-manager", "system:kube-controller-manager"),
    Leaf("scheduler", "system:kube-scheduler"),
    Leaf("proxy", "system:kube-proxy"),
    Leaf("addons", "sandbox-addons", "system:masters"),
    Leaf("kubelet", f"system:node:{NODE_NAME}", "system:nodes", names=(NODE_NAME,), addresses=(network.NODE_ADDRESS,)),
)


def ensure(folder: Path, now: dt.datetime) -> None:
    """Makes what is missing in `folder`, and what ends within RENEW_DAYS of `now`. The authority and the token keys are made once."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority, authority_key = _authority(folder, now)
    for leaf in LEAVES:
        if not _good(folder / f"{leaf.file}.crt", now):
            _issue(leaf, folder, authority, authority_key, now)
    if not (folder / "tokens.pub").is_file():
        key = rsa.generate_private_key(65537, 2048)
        _write(folder / "tokens.key", _private(key))
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        _write(folder / "tokens.pub", public)


def kubeconfig(folder: Path, leaf: str, *, embed: bool = False) -> str:
    """A kubeconfig for the holder of `leaf`, context `sandbox`. `embed` puts keys into it, so that it works on its own."""

    def entry(key: str, file: Path) -> dict[str, str]:
        if not embed:
            return {key: str(file)}
        return {f"{key}-data": _base64(file.read_bytes())}

    server = f"https://{network.NODE_ADDRESS}:{network.API_PORT}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": server, **entry("certificate-authority", folder / "ca.crt")}}],
        "users": [
            {
                "name": leaf,
                "user": {**entry("client-certificate", folder / f"{leaf}.crt"), **entry("client-key", folder / f"{leaf}.key")},
            }
        ],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": leaf}}],
        "current-context": CONTEXT,
    }
    return yaml.safe_dump(document, sort_keys=False)


def write_private(path: Path, content: str) -> None:
    """Writes a file that only its owner reads, whole or not at all."""
    _write(path, content.encode())


def _authority(folder: Path, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key_file = folder / "ca.crt", folder / "ca.key"
    if certificate.is_file():
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate(certificate.read_bytes()), key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "groundwork-sandbox")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=365 * AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _private(key))
    _write(certificate, made.public_bytes(serialization.Encoding.PEM))
    return made, key


def _issue(leaf: Leaf, folder: Path, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
    if leaf.organisation:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organisation))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=LEAF_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    reached_as = [*map(x509.DNSName, leaf.names), *(x509.IPAddress(ipaddress.ip_address(address)) for address in leaf.addresses)]
    if reached_as:
        builder = builder.add_extension(x509.SubjectAlternativeName(reached_as), critical=False)
    _write(folder / f"{leaf.file}.key", _private(key))
    _write(folder / f"{leaf.file}.crt", builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _good(certificate: Path, now: dt.datetime) -> bool:
    if not certificate.is_file() or not certificate.with_suffix(".key").is_file():
        return False
    end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return end - now > dt.timedelta(days=RENEW_DAYS)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    unfinished.rename(path)


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
