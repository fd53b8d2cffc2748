"""Background processes that outlive the command that started them, each with a file that says exactly which process it is.

A number alone is not enough: the kernel gives it to somebody else after a while. The file also holds when the process started and
during which boot, so that a stranger is never taken for ours, let alone killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Daemon:
    """A process to keep running. `inputs` are the contents of files that it reads at its start: when they change, it is restarted.

    `namespaces` False: it runs in the host's own namespaces (only the process that makes the node's does).
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    inputs: tuple[str, ...] = ()
    namespaces: bool = True

    @property
    def digest(self) -> str:
        """Changes with everything that would make a restarted process behave differently."""
        return sha256(json.dumps([self.argv, dict(self.environment), self.inputs]).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """Which process it is: `started` in clock ticks since boot `boot`."""

    pid: int
    started: int
    boot: str
    digest: str


def boot_id() -> str:
    """Differs after every start of the machine."""
    return BOOT_ID.read_text().strip()


def started(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None where there is none or only its remains."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name in front may hold blanks and brackets
    return None if state in "ZX" else int(rest[18])


def read(file: Path) -> Record | None:
    """The record in `file`; None where there is none or an interrupted write left half of one."""
    try:
        content = json.loads(file.read_text())
        return Record(pid=content["pid"], started=content["started"], boot=content["boot"], digest=content["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(record: Record | None) -> bool:
    """Whether the very process of `record` is alive."""
    return record is not None and record.boot == boot_id() and started(record.pid) == record.started


def spawn(daemon: Daemon, file: Path, log: Path, *, prefix: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Record:
    """Starts `daemon` in a session of its own, its output appended to `log`, and writes its record to `file`. `prefix` comes before its argv."""
    for folder in (file.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*prefix, *daemon.argv],
            env={**environment, **daemon.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            umask=0o022,
        )
    record = Record(process.pid, started(process.pid) or 0, boot_id(), daemon.digest)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(asdict(record)))
    unfinished.rename(file)
    _children.append(process)
    return record


_children: list[subprocess.Popen[bytes]] = []  # kept, so that the interpreter does not warn that they are still running


def reap() -> None:
    """Takes note of own children that have ended, so that no remains of them stay."""
    _children[:] = [child for child in _children if child.poll() is None]


def stop(record: Record | None, *, grace: float, number: int = signal.SIGTERM) -> None:
    """Ends the process of `record`: by `number`, and after `grace` seconds by force. Does nothing where it is not running."""
    if record is None or not running(record):
        return
    _signal(record.pid, number)
    end = time.monotonic() + grace
    while running(record):
        reap()
        if time.monotonic() > end:
            _signal(record.pid, signal.SIGKILL)
            end = time.monotonic() + 10
        time.sleep(0.02)
    reap()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


@dataclass(frozen=True)
class Running:
    """A process as /proc shows it."""

    pid: int
    command: str
    network: str
    mounts: str
    cgroup: str


def every() -> Iterator[Running]:
    """All processes of the machine, with the namespaces they are in; those that end meanwhile are left out."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            yield Running(
                pid=int(folder.name),
                command=(folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip(),
                network=str((folder / "ns/net").readlink()),
                mounts=str((folder / "ns/mnt").readlink()),
                cgroup=(folder / "cgroup").read_text(),
            )
        except OSError:
            continue


def memory_bytes(pid: int) -> int:
    """The proportional share of memory of process `pid`; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
