"""`python -m app.accounts postgres|redis|rabbitmq|consul`: applies the mounted accounts and exits with 0, or with 1 and a message with the fix.

A run that is late, because the engine has seen a newer generation of accounts, changes nothing and exits with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from app.accounts import consul, postgres, rabbitmq, redis
from app.accounts.desired import ADMIN_FILE, ConsulState, PostgresState, RabbitmqState, RedisState, read_state
from app.accounts.errors import AccountsError, Late
from groundwork import logs
from groundwork.errors import PlatformError
from groundwork.settings import MOUNT, read_secret

ENGINES = ("postgres", "redis", "rabbitmq", "consul")
ROOT_VARIABLE = "ACCOUNTS_ROOT"
WAIT_VARIABLE = "ACCOUNTS_WAIT_SECONDS"
WAIT_SECONDS = 120.0
TOTAL_SECONDS = 280.0  # below the Job's own deadline, whose end leaves no message

log = logging.getLogger("app.accounts")


async def apply(engine: str, root: Path, wait_seconds: float) -> str:
    """Applies the accounts of `engine` that are mounted below `root`. Raises PlatformError."""
    folder = root / "accounts"
    admin = read_secret(folder / ADMIN_FILE).get_secret_value()
    ca = root / "ca" / "ca.crt"
    try:
        trust = ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise AccountsError(f"{ca} cannot be used ({error}): is the ConfigMap groundwork-ca mounted?") from None
    match engine:
        case "postgres":
            return await postgres.apply(read_state(folder, PostgresState), admin, trust, wait_seconds=wait_seconds)
        case "redis":
            return await redis.apply(read_state(folder, RedisState), admin, ca, trust, wait_seconds=wait_seconds)
        case "rabbitmq":
            return await rabbitmq.apply(read_state(folder, RabbitmqState), admin, trust, wait_seconds=wait_seconds)
        case _:
            return await consul.apply(read_state(folder, ConsulState), admin, trust, wait_seconds=wait_seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m app.accounts", description="Makes an engine's accounts agree with what is declared.")
    parser.add_argument("engine", choices=ENGINES)
    engine: str = parser.parse_args(argv).engine
    logs.configure(f"{engine}-accounts")
    root = Path(os.environ.get(ROOT_VARIABLE, str(MOUNT)))
    wait_seconds = float(os.environ.get(WAIT_VARIABLE, str(WAIT_SECONDS)))
    try:
        done = asyncio.run(asyncio.wait_for(apply(engine, root, wait_seconds), TOTAL_SECONDS))
    except Late as late:
        log.warning("accounts of %s left as they are: %s", engine, late)
        return 0
    except PlatformError as error:
        log.error("accounts of %s not applied: %s", engine, error)
        return 1
    except TimeoutError:
        log.error("accounts of %s not applied within %.0f s: look at the lines above for what it waited for", engine, TOTAL_SECONDS)
        return 1
    log.info("accounts of %s applied: %s", engine, done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
