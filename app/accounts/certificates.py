"""The certificate that a server shows to its clients, and the wait until that is the one that it ought to show.

A renewed certificate reaches the pod as a file: the kubelet refreshes a mounted Secret within about 90 seconds. The server reads it when
it is asked to, or by itself, and goes on with the connections that are open.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.accounts import waiting
from app.accounts.errors import NotYet

CONNECT_SECONDS = 10.0
PAUSE_SECONDS = 2.0
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # https://www.postgresql.org/docs/17/protocol-message-formats.html
ADVICE = "Look whether the Secret with the certificate is mounted in its pod, and in its log for a certificate and key that it refuses"


@dataclass(frozen=True)
class Listener:
    """A port that answers with TLS, at once or (PostgreSQL) when it is asked to."""

    host: str
    port: int
    postgres: bool = False

    async def certificate(self, trust: ssl.SSLContext) -> str:
        """The SHA-256 of the certificate that is shown, in hexadecimal digits. Raises OSError where none is, or none that verifies."""
        async with asyncio.timeout(CONNECT_SECONDS):
            return await self._certificate(trust)

    async def _certificate(self, trust: ssl.SSLContext) -> str:
        # `ssl` and `start_tls` both verify the server's name.
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=None if self.postgres else trust)
        try:
            if self.postgres:
                writer.write(SSL_REQUEST)
                if await reader.readexactly(1) != b"S":
                    raise ConnectionError(f"{self.host}:{self.port} does not speak TLS")
                await writer.start_tls(trust, server_hostname=self.host)
            shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return hashlib.sha256(shown.getpeercert(binary_form=True) or b"").hexdigest()
        except asyncio.IncompleteReadError as error:
            raise ConnectionError(f"{self.host}:{self.port} ended the connection ({error})") from None
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def differs(listener: Listener, wanted: str, trust: ssl.SSLContext) -> str | None:
    """What is wrong with the certificate that a listener shows; None where it is the wanted one."""
    try:
        shown = await listener.certificate(trust)
    except ssl.SSLCertVerificationError:
        raise
    except OSError as error:  # the others are asked nevertheless
        return f"{listener.host}:{listener.port} shows no certificate ({error})"
    return None if shown == wanted else f"{listener.host}:{listener.port} shows the certificate {shown}, wanted is {wanted}"


async def wait_for(
    what: str,
    wanted: str | None,
    listeners: Sequence[Listener],
    trust: ssl.SSLContext,
    *,
    reload: Callable[[], Awaitable[None]] | None = None,
    seconds: float,
) -> None:
    """Asks the server to `reload` its files until each of its listeners shows the certificate `wanted`; None: any will do.

    Raises AccountsError that names both where it does not happen within `seconds`.
    """
    if wanted is None:
        return

    async def problems() -> list[str]:
        return [problem for listener in listeners if (problem := await differs(listener, wanted, trust)) is not None]

    async def attempt() -> None:
        if await problems() and reload is not None:
            await reload()
        left = await problems()
        if left:
            raise NotYet("; ".join(left))

    await waiting.until(what, attempt, seconds=seconds, pause=PAUSE_SECONDS, advice=ADVICE)
