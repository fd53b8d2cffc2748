"""An issuer of tokens on loopback: keys, a key set over HTTP that can fail, and tokens of any shape."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from groundwork.settings import IssuerSettings

AUDIENCE = "groundwork"
Key = RSAKey | ECKey | OKPKey


class Issuer:
    """Signs tokens with `keys` (by kid) and serves their public halves."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.down = False
        self.requests = 0
        self.delay = 0.0
        self.authorization: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests += 1
                issuer.authorization.append(self.headers.get("Authorization", ""))
                time.sleep(issuer.delay)
                body = b"" if issuer.down else issuer.key_set()
                self.send_response(503 if issuer.down else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def settings(self) -> IssuerSettings:
        """The issuer as the settings name it: it speaks for the accounts of namespace `demo`, one service, and all scopes."""
        return IssuerSettings(
            issuer=self.url,
            jwks_url=f"{self.url}/jwks",
            audience=AUDIENCE,
            namespaces=("demo",),
            services=("user-service",),
            token_scopes=("registry:read", "registry:write", "registry:admin", "config:read", "config:own", "config:write", "health:details"),
        )

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def key_set(self) -> bytes:
        return json.dumps({"keys": [key.as_dict(private=False) | {"kid": kid, "use": "sig"} for kid, key in self.keys.items()]}).encode()

    def add(self, kid: str, kind: str = "RSA") -> Key:
        """A new key of type RSA, EC or OKP."""
        key: Key
        if kind == "RSA":
            key = RSAKey.generate_key(2048)
        elif kind == "EC":
            key = ECKey.generate_key("P-256")
        else:
            key = OKPKey.generate_key("Ed25519")
        self.keys[kid] = key
        return key

    def claims(self, **changes: object) -> dict[str, object]:
        """Claims of a good token; None removes one."""
        now = int(time.time())
        claims: dict[str, object] = {"iss": self.url, "aud": AUDIENCE, "sub": "tester", "iat": now, "nbf": now, "exp": now + 600, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, kid: str = "one", *, alg: str = "", header: dict[str, object] | None = None, **changes: object) -> str:
        """A token signed with key `kid`."""
        key = self.keys[kid]
        algorithm = alg or {"RSA": "RS256", "EC": "ES256", "OKP": "Ed25519"}[key.key_type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # EdDSA is an old name, and issuers still use it
            return jwt.encode({"alg": algorithm, "kid": kid, **(header or {})}, self.claims(**changes), key, algorithms=[algorithm])

    def account(self, name: str, namespace: str = "demo") -> str:
        """A ServiceAccount's projected token."""
        return self.token(sub=f"system:serviceaccount:{namespace}:{name}")


@contextmanager
def issuer(*kinds: str) -> Generator[Issuer]:
    """A running issuer with key `one` (RSA), and one more for each of `kinds`, named after it."""
    running = Issuer()
    running.add("one")
    for kind in kinds:
        running.add(kind, kind)
    thread = threading.Thread(target=running.serve, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.close()
        thread.join()
