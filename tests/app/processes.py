"""A server process that a test owns: started on loopback as an unprivileged user, stopped, killed, paused, wiped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 30.0


def free_port(host: str = "127.0.0.1") -> int:
    """A port that the OS says is free now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def listening(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def run_as(user: str | None) -> pwd.struct_passwd | None:
    """The account to run a server as: `user` or nobody where the tests run as root, None (oneself) elsewhere and for no `user`."""
    if os.geteuid() != 0 or user is None:
        return None
    for name in (user, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError(f"neither {user} nor nobody exists on this machine: servers cannot run as root")


def descendants(pid: int) -> list[int]:
    """All processes below `pid`: PostgreSQL's backends lead process groups of their own, so a group's signal misses them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found.extend(below)
        queue.extend(below)
    return found


class Server(ABC):
    """A real server with data of its own. It keeps its address over restarts.

    `host`, `port` and `ca` are what a client needs; `username` and `password` are the administrator's.
    """

    name: str
    user: str | None
    graceful: signal.Signals = signal.SIGTERM
    username: str = ""
    password: str = ""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_port(host)
        self.account = run_as(self.user)
        self._uid = self.account and self.account.pw_uid
        self._gid = self.account and self.account.pw_gid
        self._groups: list[int] | None = None if self.account is None else []
        # Not pytest's tmp_path: its folders are closed to other users, and paths of sockets must stay short.
        self.folder = Path(tempfile.mkdtemp(prefix=f"groundwork-{self.name}-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.ca = self.folder / "ca" / "ca.crt"
        self.log = self.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What runs the server in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the server does its work now."""

    def prepare(self) -> None:
        """Makes what must exist before the first start, or after a wipe: for most servers an empty folder will do."""
        return

    def environment(self) -> Mapping[str, str]:
        """Variables beside PATH and HOME."""
        return {}

    def owned(self, folder: Path, mode: int = 0o700) -> Path:
        """`folder`, made if need be, with everything in it given to the server's user."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.account is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self.account.pw_uid, self.account.pw_gid)
        folder.chmod(mode)
        return folder

    def run(self, command: Sequence[str]) -> None:
        """Runs a helper program to its end, as the server's user. Raises with its output where it fails."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
            cwd=self.folder,
            env=self._env(),
            user=self._uid,
            group=self._gid,
            extra_groups=self._groups,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed with {done.returncode}: {done.stdout}{done.stderr}")

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it is ready. Raises with the end of its log where it does not get there."""
        self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if not self.running or time.monotonic() > deadline:
                state = "does not answer" if self.running else f"ended with {self._process and self._process.returncode}"
                raise RuntimeError(f"{self.name} {state}:\n{self.log_text()[-4000:]}")
            time.sleep(0.05)

    def spawn(self) -> None:
        """Starts the server and does not wait."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        if not self.data.exists():
            self.owned(self.data)
            self.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._env(),
                start_new_session=True,
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
            )

    def wait_for_exit(self, seconds: float = START_SECONDS) -> int:
        """The exit code of a server that is expected to end by itself."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.wait(seconds)

    def stop(self) -> None:
        """Asks the server to end, as Kubernetes does, and waits for it."""
        process = self._process
        if process is not None and process.poll() is None:
            self.resume()
            process.send_signal(self.graceful)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Ends the server and all its children at once, as a lost node does."""
        process = self._process
        if process is not None and process.poll() is None:
            family = [process.pid, *descendants(process.pid)]
            for pid in family:
                _signal(pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
            deadline = time.monotonic() + STOP_SECONDS
            while any(Path(f"/proc/{pid}/exe").exists() for pid in family) and time.monotonic() < deadline:
                time.sleep(0.02)

    def restart(self) -> None:
        """Stops and starts the server with its data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freezes the server: its port accepts connections, and nothing answers."""
        for pid in (self.pid, *descendants(self.pid)):
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen server go on."""
        for pid in (self.pid, *descendants(self.pid)):
            _signal(pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Throws all data away, as a lost volume does. The server must be stopped; the next start begins on an empty volume."""
        if self.running:
            raise RuntimeError(f"{self.name} runs: stop or kill it before the wipe")
        shutil.rmtree(self.data, ignore_errors=True)

    def close(self) -> None:
        """Ends the server and removes every trace of it."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_text(self) -> str:
        """Everything the server has written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.data), "LANG": "C.UTF-8", **self.environment()}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
