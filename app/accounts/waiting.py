"""Waiting for an engine that is still starting: bounded, logged, and never for something that waiting cannot mend."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.accounts.errors import AccountsError, NotYet

PAUSE_SECONDS = 1.0
STEP_SECONDS = 30.0  # for one call to an engine
ADVICE = "Look at its pod (`kubectl describe pod`) and at the network policies between the two"

log = logging.getLogger(__name__)
Result = TypeVar("Result")


async def until(
    what: str,
    attempt: Callable[[], Awaitable[Result]],
    *,
    seconds: float,
    pause: float = PAUSE_SECONDS,
    advice: str = ADVICE,
) -> Result:
    """The result of the first `attempt` that raises neither NotYet, OSError nor TimeoutError.

    Raises AccountsError after `seconds`, with the last reason and `advice`, and at once where the certificate is wrong.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    said = ""
    while True:
        try:
            return await asyncio.wait_for(attempt(), STEP_SECONDS)
        except ssl.SSLCertVerificationError as error:
            raise AccountsError(
                f"{what} shows a certificate that does not verify ({error.verify_message}): "
                "run `pulumi up`, so that the server and the CA in ConfigMap groundwork-ca are of one issue"
            ) from None
        except (NotYet, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            if loop.time() >= deadline:
                raise AccountsError(f"{what} did not answer within {seconds:.0f} s as it should, last: {reason}. {advice}") from None
            if reason != said:
                log.info("waiting for %s: %s", what, reason)
                said = reason
        await asyncio.sleep(pause)
