"""Progress for people and for CI logs: a line when a step begins to matter, a line when it ends, a sign of life in between.

Every step writes the output of what it runs to a file of its own. A failing step says which one it was, the last lines of that file and what to do.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.errors import SandboxError, StepFailed

HEARTBEAT_SECONDS = 15.0
TAIL_LINES = 15


def duration(seconds: float) -> str:
    """`seconds` as a person reads it: 0.4 s, 12 s, 3 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def tail(log: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last non-empty lines of `log`."""
    if not log.is_file():
        return ()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        text = file.read().decode(errors="replace")
    return tuple([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])


@dataclass
class Step:
    """One running step: where its output goes and what it is busy with."""

    title: str
    log: Path
    _say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    note: str = ""
    outcome: str = ""

    @property
    def seconds(self) -> float:
        """How long the step has been running."""
        return time.monotonic() - self.started

    def say(self, text: str) -> None:
        """Tells the person something while the step runs."""
        self._say(f"           {text}")

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        fix: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
    ) -> None:
        """Runs a program, its output into the log. `timeout` in seconds.

        Raises StepFailed where it is missing, ends with another code than 0 or takes too long.
        """
        words = [str(word) for word in argv]
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            try:
                done = subprocess.run(
                    words, cwd=cwd, env=environment, input=stdin, stdout=log, stderr=subprocess.STDOUT, timeout=timeout, check=False
                )
            except FileNotFoundError:
                raise self.failed(f"`{words[0]}` is not installed", fix=fix) from None
            except subprocess.TimeoutExpired:
                raise self.failed(f"`{words[0]}` took longer than {duration(timeout or 0)}", fix=fix) from None
        if done.returncode != 0:
            raise self.failed(f"`{Path(words[0]).name}` ended with code {done.returncode}", fix=fix)

    def failed(self, message: str, *, fix: str) -> StepFailed:
        """The error that says how this step went wrong."""
        return StepFailed(self.title, message, log=self.log, tail=tail(self.log), fix=fix)

    def wait_for(self, what: str, ready: Callable[[], str | None], *, timeout: float, fix: str, interval: float = 0.3) -> None:
        """Waits until `ready` returns None; what it returns until then says what is missing. Times in seconds.

        Raises StepFailed with the last of those words after `timeout`.
        """
        end = time.monotonic() + timeout
        while (missing := ready()) is not None:
            self.note = missing
            if time.monotonic() > end:
                raise self.failed(f"{what} is not there after {duration(timeout)}: {missing}", fix=fix)
            time.sleep(interval)
        self.note = ""


class Progress:
    """Prints steps. `say` takes one whole line; no line is ever rewritten, so that logs read well."""

    def __init__(self, logs: Path, say: Callable[[str], None] | None = None, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._logs = logs
        self._print = say or _print
        self._heartbeat = heartbeat
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str = "") -> None:
        """Prints a line."""
        with self._lock:
            self._print(text)

    def clock(self) -> str:
        """The time since `up` began, as it stands before each line."""
        seconds = int(time.monotonic() - self._started)
        return f"[{seconds // 60:3d}:{seconds % 60:02d}]"

    @contextmanager
    def step(self, title: str) -> Generator[Step]:
        """Runs the block as one step.

        Raises StepFailed for everything that goes wrong inside, with the step's name; a SandboxError keeps its message and fix.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
        log = self._logs / f"{name}.log"
        log.write_bytes(b"")
        step = Step(title, log, self.say)
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(step, ended), daemon=True)
        beat.start()
        try:
            yield step
        except StepFailed:
            raise
        except SandboxError as error:
            raise step.failed(str(error), fix=error.fix) from error
        finally:
            ended.set()
            beat.join()
        self.say(f"{self.clock()}  ok   {title}{f': {step.outcome}' if step.outcome else ''} ({duration(step.seconds)})")

    def _beat(self, step: Step, ended: threading.Event) -> None:
        while not ended.wait(self._heartbeat):
            busy = step.note or next((line for line in reversed(tail(step.log)) if not line.startswith("$ ")), "")
            self.say(f"{self.clock()}  ...  {step.title}: {duration(step.seconds)} so far{f' | {busy[:90]}' if busy else ''}")


def report(error: SandboxError) -> str:
    """What a person reads when the sandbox gives up."""
    lines = [f"FAILED: {error}"]
    if isinstance(error, StepFailed):
        lines[0] = f"FAILED in step «{error.step}»: {error}"
        lines += [f"    | {line}" for line in error.tail]
        if error.log is not None:
            lines.append(f"  all of it: {error.log}")
    lines.append(f"  what to do: {error.fix}")
    return "\n".join(lines)


def _print(text: str) -> None:
    print(text, flush=True)
