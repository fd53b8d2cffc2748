"""Runs the accounts program as its Job does: files below one root, the engine's name as the argument, the outcome as an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.app.pki import Leaf
from tests.app.processes import Server

REPOSITORY = Path(__file__).parents[3]


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
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "app.accounts", engine],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "ACCOUNTS_ROOT": str(root), "ACCOUNTS_WAIT_SECONDS": str(wait_seconds)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stdout + done.stderr)


def mount(server: Server, leaf: Leaf) -> None:
    """Puts another certificate where the server reads its own, as the kubelet does when the Secret has changed."""
    leaf.write(server.folder / "tls")
    server.owned(server.folder / "tls")
