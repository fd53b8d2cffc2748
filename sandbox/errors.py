"""What can go wrong with the sandbox, in words for the person who typed `make up`."""

from __future__ import annotations

from pathlib import Path


class SandboxError(Exception):
    """Something that a person must know: what happened, and `fix`, what to do about it."""

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class StepFailed(SandboxError):
    """A step of `up` did not end well. `step` names it; `log` is the file that holds all of its output."""

    def __init__(self, step: str, message: str, *, log: Path | None, tail: tuple[str, ...], fix: str) -> None:
        super().__init__(message, fix=fix)
        self.step = step
        self.log = log
        self.tail = tail
