"""One sandbox per machine: it belongs to the clone that brought it up, and one command at a time changes it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox import processes
from sandbox.errors import SandboxError
from sandbox.paths import HOLDER, Paths

MARKER = Path("/run/groundwork-sandbox")


@dataclass(frozen=True)
class Owner:
    """The clone that owns the sandbox."""

    repository: str


def owner(paths: Paths) -> Owner | None:
    """Who owns the sandbox, None where nobody does."""
    try:
        return Owner(repository=str(json.loads(paths.owner.read_text())["repository"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def claim(paths: Paths, repository: Path, *, take_over: bool) -> None:
    """Makes `repository` the owner.

    Raises SandboxError where another clone that still exists is, unless `take_over`.
    """
    refuse_stranger(paths, repository, take_over=take_over)
    paths.owner.parent.mkdir(parents=True, exist_ok=True)
    unfinished = paths.owner.with_suffix(".part")
    unfinished.write_text(json.dumps({"repository": str(repository)}))
    unfinished.rename(paths.owner)


def refuse_stranger(paths: Paths, repository: Path, *, take_over: bool) -> None:
    """Raises SandboxError where another clone owns the sandbox, unless `take_over`. A clone that was deleted owns nothing."""
    current = owner(paths)
    if current is None or take_over or current.repository == str(repository) or not Path(current.repository).is_dir():
        return
    raise SandboxError(
        f"the sandbox of this machine belongs to the clone in {current.repository}",
        fix=f"work there, or take it over with `python -m sandbox up --take-over`: its stacks are then updated from {repository}",
    )


def refuse_other_place(paths: Paths, marker: Path = MARKER) -> None:
    """Raises SandboxError where a sandbox runs on this machine that lives in another folder: the two would share addresses and cgroups."""
    try:
        place = Path(marker.read_text())
    except OSError:
        return
    if place != paths.root and processes.running(processes.read(Paths(place).process_file(HOLDER))):
        raise SandboxError(
            f"the sandbox of this machine lives in {place}",
            fix=f"use it with XDG_CACHE_HOME={place.parent}, or stop it: XDG_CACHE_HOME={place.parent} make down",
        )


def mark_place(paths: Paths, marker: Path = MARKER) -> None:
    """Says to the whole machine, until it restarts, where its sandbox lives."""
    marker.write_text(str(paths.root))


def release(paths: Paths) -> None:
    """Nobody owns the sandbox any more."""
    paths.owner.unlink(missing_ok=True)


@contextmanager
def exclusive(paths: Paths) -> Generator[None]:
    """Holds the machine-wide lock of commands that change something; the kernel frees it when the process ends, however it ends.

    Raises SandboxError where another command holds it.
    """
    paths.mutex.parent.mkdir(parents=True, exist_ok=True)
    with paths.mutex.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise SandboxError(f"another sandbox command is at work (process {holder})", fix="wait until it has ended") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
