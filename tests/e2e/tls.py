"""What an engine shows of itself to whoever connects."""

from __future__ import annotations

import hashlib
import socket
import ssl

from groundwork.platform_outputs import parse
from tests.e2e.cluster import Platform

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # https://www.postgresql.org/docs/17/protocol-message-formats.html


def shown(platform: Platform, engine: str, *, ca_pem: str | None = None) -> str:
    """The SHA-256 of the certificate that an engine shows now. It must verify against `ca_pem`, by default the stack's CA as it is now."""
    end = platform.outputs.endpoints[engine]
    trust = ssl.create_default_context(cadata=ca_pem or parse(platform.stack.outputs()).ca.pem)
    with socket.create_connection((end.host, end.port), timeout=10) as plain:
        if engine == "postgres":  # TLS begins inside of PostgreSQL's own protocol
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
        with trust.wrap_socket(plain, server_hostname=end.host) as secured:
            return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
