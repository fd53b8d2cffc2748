"""SCRAM-SHA-256 verifiers as PostgreSQL keeps them, made here so that no password ever stands in a statement that the server may log.

https://www.rfc-editor.org/rfc/rfc5802#section-3, https://www.postgresql.org/docs/17/catalog-pg-authid.html
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode

ITERATIONS = 4096  # PostgreSQL's scram_iterations
SALT_BYTES = 16

_FORM = re.compile(r"SCRAM-SHA-256\$(?P<iterations>\d+):(?P<salt>[A-Za-z0-9+/=]+)\$(?P<stored>[A-Za-z0-9+/=]+):(?P<server>[A-Za-z0-9+/=]+)")


def verifier(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """What the server keeps instead of `password`. Raises ValueError for characters that would need normalising (RFC 4013)."""
    if not password.isascii() or not password.isprintable():
        raise ValueError("the password has other characters than printable ASCII: let the platform generate it")
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    encoded = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def matches(password: str, kept: str | None) -> bool:
    """Whether `kept` is a verifier of `password`."""
    found = _FORM.fullmatch(kept or "")
    if found is None:
        return False
    again = verifier(password, salt=b64decode(found["salt"]), iterations=int(found["iterations"]))
    return hmac.compare_digest(again, kept or "")
