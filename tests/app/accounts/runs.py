"""Runs the accounts program as its Job does: files below one root, the engine's name as the argument, the outcome as an exit code."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.app.pki import Leaf
from tests.app.processes import Server

REPOSITORY = Path(__file__).parents[3]
LOG = "log"


def password(name: str, generation: int = 1) -> str:
    """The password of a client in a generation."""
    return f"password-of-{name}-in-generation-{generation}-0123456789"


def login(name: str, generation: int = 1) -> str:
    """The account of a client in a generation."""
    return f"{name}.{generation}"


@dataclass(frozen=True)
class Run:
    """What a run of the program left: its exit code, its log and everything it wrote."""

    code: int
    log: str
    output: str

    @property
    def last(self) -> str:
        """The message of the log's last line."""
        return json.loads(self.log.strip().splitlines()[-1])["event"]


def accounts(engine: str, server: Server, root: Path, state: Mapping[str, object], *, admin: str | None = None, wait_seconds: float = 60) -> Run:
    """Runs `python -m app.accounts ENGINE` against `server`, with `state` as accounts.json."""
    folder = root / "accounts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accounts.json").write_text(json.dumps(state))
    (folder / "admin").write_text(server.password if admin is None else admin)
    (root / "ca").mkdir(exist_ok=True)
    (root / "ca" / "ca.crt").write_text(server.ca.read_text())
    return program(engine, root, wait_seconds=wait_seconds)


def program(engine: str, root: Path, *, wait_seconds: float = 60) -> Run:
    """Runs it on the files that are there."""
    with (root / LOG).open("w") as log:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "app.accounts", engine],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "ACCOUNTS_ROOT": str(root), "ACCOUNTS_WAIT_SECONDS": str(wait_seconds)},
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
            check=False,
        )
    text = (root / LOG).read_text()
    return Run(done.returncode, text, text + done.stderr)


async def said(root: Path, text: str) -> None:
    """Waits until the run of the program below `root` has written `text`."""
    deadline = time.monotonic() + 120
    while not (root / LOG).exists() or text not in (root / LOG).read_text():
        assert time.monotonic() < deadline, f"it did not say {text!r}"
        await asyncio.sleep(0.05)


def mount(server: Server, leaf: Leaf) -> None:
    """Puts another certificate where the server reads its own, as the kubelet does when the Secret has changed."""
    leaf.write(server.folder / "tls")
    server.owned(server.folder / "tls")
