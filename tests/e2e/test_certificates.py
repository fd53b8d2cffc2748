"""The certificates that the engines really serve."""

from __future__ import annotations

import socket
import ssl

import pytest
from cryptography import x509

from tests.e2e.cluster import Platform

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # PostgreSQL speaks in clear until it is asked: protocol-message-formats, SSLRequest


@pytest.fixture
def strict(platform: Platform) -> ssl.SSLContext:
    """What Python's default context does from 3.13 on, trusting the stack's CA alone."""
    context = ssl.create_default_context(cafile=platform.ca_file())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def test_the_authority_may_sign_certificates_and_nothing_else(platform: Platform) -> None:
    authority = x509.load_pem_x509_certificate(platform.outputs.ca.pem.encode())
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (True, True)
    assert not usage.value.digital_signature
    assert not usage.value.key_encipherment


@pytest.mark.parametrize("engine", ["postgres", "redis", "rabbitmq", "consul"])
def test_every_engines_certificate_verifies_by_the_strict_rules_of_python_3_13(platform: Platform, strict: ssl.SSLContext, engine: str) -> None:
    endpoint = platform.outputs.endpoints[engine]
    with socket.create_connection((endpoint.host, endpoint.port), timeout=10) as plain:
        if engine == "postgres":
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
        with strict.wrap_socket(plain, server_hostname=endpoint.host) as connection:
            assert connection.version() in {"TLSv1.2", "TLSv1.3"}
