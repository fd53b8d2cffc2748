"""X.509 as the official tls plugin writes it: the words of its inputs, and what Go's x509 puts into a certificate by itself."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox.plugins.protocol import UNKNOWN, Invalid, Properties, Value, known, words

Key: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

KEY_USES = {
    "digital_signature": "digital_signature",
    "content_commitment": "content_commitment",
    "key_encipherment": "key_encipherment",
    "data_encipherment": "data_encipherment",
    "key_agreement": "key_agreement",
    "cert_signing": "key_cert_sign",
    "crl_signing": "crl_sign",
    "encipher_only": "encipher_only",
    "decipher_only": "decipher_only",
}
EXTENDED_USES = {
    "any_extended": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ipsec_end_system": x509.ObjectIdentifier("1.3.6.1.5.5.7.3.5"),
    "ipsec_tunnel": x509.ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    "ipsec_user": x509.ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "microsoft_server_gated_crypto": x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
    "netscape_server_gated_crypto": x509.ObjectIdentifier("2.16.840.1.113730.4.1"),
    "microsoft_commercial_code_signing": x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.22"),
    "microsoft_kernel_code_signing": x509.ObjectIdentifier("1.3.6.1.4.1.311.61.1.1"),
}
# In the order in which Go writes them.
SUBJECT = {
    "country": NameOID.COUNTRY_NAME,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "province": NameOID.STATE_OR_PROVINCE_NAME,
    "streetAddresses": NameOID.STREET_ADDRESS,
    "postalCode": NameOID.POSTAL_CODE,
    "commonName": NameOID.COMMON_NAME,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}


@dataclass(frozen=True)
class Request:
    """What a certificate is to say. `path_length` counts for an authority only."""

    subject: x509.Name
    public_key: PublicKey
    start: dt.datetime
    end: dt.datetime
    uses: tuple[str, ...]
    authority: bool
    path_length: int | None
    subject_key_id: bool


def issue(
    request: Request, *, names: Sequence[x509.GeneralName], issuer: x509.Name, key: Key, authority_key_id: x509.AuthorityKeyIdentifier | None
) -> x509.Certificate:
    """A certificate for `request`, signed by `issuer` with `key`."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(issuer)
        .public_key(request.public_key)
        .serial_number(secrets.randbits(127) + 1)
        .not_valid_before(request.start)
        .not_valid_after(request.end)
        .add_extension(x509.BasicConstraints(ca=request.authority, path_length=request.path_length if request.authority else None), critical=True)
    )
    if usage := key_usage(request.uses):
        builder = builder.add_extension(usage, critical=True)
    if extended := [EXTENDED_USES[use] for use in request.uses if use in EXTENDED_USES]:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if request.subject_key_id or request.authority:  # Go gives every authority one
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key), critical=False)
    if authority_key_id is not None:
        builder = builder.add_extension(authority_key_id, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, signature_hash(key))


def key_usage(uses: Sequence[str]) -> x509.KeyUsage | None:
    """The key usage bits among `uses`, None where there are none."""
    chosen = {KEY_USES[use] for use in uses if use in KEY_USES}
    if not chosen:
        return None
    if chosen & {"encipher_only", "decipher_only"}:
        chosen.add("key_agreement")  # the two mean nothing without it, and cannot be written without it
    return x509.KeyUsage(
        digital_signature="digital_signature" in chosen,
        content_commitment="content_commitment" in chosen,
        key_encipherment="key_encipherment" in chosen,
        data_encipherment="data_encipherment" in chosen,
        key_agreement="key_agreement" in chosen,
        key_cert_sign="key_cert_sign" in chosen,
        crl_sign="crl_sign" in chosen,
        encipher_only="encipher_only" in chosen,
        decipher_only="decipher_only" in chosen,
    )


def check_uses(uses: Sequence[str]) -> None:
    """Raises Invalid for a use that there is not."""
    for use in uses:
        if use not in KEY_USES and use not in EXTENDED_USES:
            raise Invalid("allowedUses", f"{use!r} is none of {', '.join(sorted([*KEY_USES, *EXTENDED_USES]))}")


def check_names(inputs: Properties) -> None:
    """Raises Invalid for an address that is none."""
    if not known(inputs, "ipAddresses"):
        return
    for address in words(inputs, "ipAddresses"):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise Invalid("ipAddresses", f"{address!r} is no IP address") from None


def subject(value: Value) -> x509.Name:
    """A distinguished name from the input `subject`."""
    fields = value if isinstance(value, dict) else {}
    contents = [(oid, fields.get(field)) for field, oid in SUBJECT.items()]
    items = [(oid, item) for oid, content in contents for item in (content if isinstance(content, list) else [content])]
    return x509.Name([x509.NameAttribute(oid, str(item)) for oid, item in items if item not in (None, "", UNKNOWN)])


def alternative_names(inputs: Properties) -> list[x509.GeneralName]:
    """What the certificate's holder may be reached as, from the inputs `dnsNames`, `ipAddresses` and `uris`."""
    return [
        *(x509.DNSName(name) for name in words(inputs, "dnsNames")),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in words(inputs, "ipAddresses")),
        *(x509.UniformResourceIdentifier(uri) for uri in words(inputs, "uris")),
    ]


def requested_names(csr: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """The alternative names that a signing request asks for."""
    try:
        return list(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def authority_key_id(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier | None:
    """What certificates signed by `authority` name it by; None where it has no key id itself."""
    try:
        found = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return None
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def load_key(pem: str) -> Key:
    """A private key in any of the PEM forms.

    Raises ValueError or TypeError where it is none.
    """
    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise TypeError(f"{type(key).__name__} is not supported")
    return key


def private_pem(key: Key, *, pkcs8: bool = False) -> str:
    """The key in PEM: in the traditional form of its kind (ED25519 has none), or PKCS #8."""
    traditional = not pkcs8 and not isinstance(key, ed25519.Ed25519PrivateKey)
    form = serialization.PrivateFormat.TraditionalOpenSSL if traditional else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def algorithm(key: Key) -> str:
    """RSA, ECDSA or ED25519."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePrivateKey) else "ED25519"


def signature_hash(key: Key) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """The hash that Go chooses for a key: as strong as the curve; ED25519 brings its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if isinstance(key.curve, ec.SECP384R1):
            return hashes.SHA384()
        if isinstance(key.curve, ec.SECP521R1):
            return hashes.SHA512()
    return hashes.SHA256()


def ssh_fingerprint(public: str, name: str) -> str:
    """The fingerprint of an OpenSSH public key as `ssh-keygen -l` prints it."""
    blob = b64decode(public.split()[1])
    digest = hashlib.new(name, blob, usedforsecurity=False).digest()
    return digest.hex(":") if name == "md5" else "SHA256:" + b64encode(digest).decode().rstrip("=")
