"""What the engine reports while it works, as progress and, when it fails, as the reason."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from sandbox.errors import StepFailed
from sandbox.progress import Step, duration

UNCHANGED = frozenset({"same", "read", "refresh"})
POLL_SECONDS = 0.3
DIAGNOSTIC_LINES = 25


@dataclass
class Update:
    """One run of the engine, as far as its events have told."""

    done: int = 0
    busy: dict[str, float] = field(default_factory=dict[str, float])
    changes: dict[str, int] = field(default_factory=dict[str, int])
    diagnostics: list[str] = field(default_factory=list[str])

    @property
    def changed(self) -> int:
        """How many resources were created, updated, replaced or deleted."""
        return sum(count for operation, count in self.changes.items() if operation not in UNCHANGED)

    def summary(self) -> str:
        """What changed, in words."""
        total = sum(self.changes.values())
        if not self.changed:
            return f"nothing to change, {total} resources"
        return ", ".join(f"{count} {operation}" for operation, count in sorted(self.changes.items()) if count)

    def take(self, event: Mapping[str, object]) -> None:
        """Takes note of one event. https://www.pulumi.com/docs/reference/automation-api: `apitype.EngineEvent`."""
        if started := _mapping(event.get("resourcePreEvent")):
            metadata = _mapping(started.get("metadata"))
            if metadata.get("op") not in UNCHANGED:
                self.busy[_name(metadata)] = float(str(event.get("timestamp", 0)))
        elif ended := _mapping(event.get("resOutputsEvent")) or _mapping(event.get("resOpFailedEvent")):
            self.busy.pop(_name(_mapping(ended.get("metadata"))), None)
            self.done += 1
        elif diagnostic := _mapping(event.get("diagnosticEvent")):
            if diagnostic.get("severity") in {"error", "warning"} and not diagnostic.get("ephemeral"):
                urn = str(diagnostic.get("urn", ""))
                about = f"{urn.rsplit('::', maxsplit=1)[-1]}: " if urn else ""
                text = str(diagnostic.get("message", "")).replace("<{%reset%}>", "").strip()
                self.diagnostics += [f"{about if number == 0 else '    '}{line}" for number, line in enumerate(text.splitlines()) if line.strip()]
        elif ended := _mapping(event.get("summaryEvent")):
            self.changes = {str(key): int(str(value)) for key, value in _mapping(ended.get("resourceChanges")).items()}

    def note(self, now: float) -> str:
        """What the engine is busy with, the longest first."""
        if not self.busy:
            return f"{self.done} resources done"
        oldest = sorted(self.busy.items(), key=lambda item: item[1])
        shown = ", ".join(f"{name} ({duration(max(0.0, now - since))})" for name, since in oldest[:3])
        more = f" and {len(oldest) - 3} more" if len(oldest) > 3 else ""
        return f"{self.done} resources done, busy: {shown}{more}"

    def follow(self, file: Path, step: Step, ended: threading.Event) -> None:
        """Reads events from `file` as they are written, until `ended` is set and nothing more comes."""
        position, rest = 0, ""
        while True:
            last = ended.is_set()
            if file.is_file():
                with file.open("rb") as stream:
                    stream.seek(position)
                    content = stream.read()
                position += len(content)
                *lines, rest = (rest + content.decode(errors="replace")).split("\n")
                for line in lines:
                    if line.strip():
                        self.take(cast("dict[str, object]", json.loads(line)))
            step.note = self.note(time.time())
            if last:
                return
            ended.wait(POLL_SECONDS)

    def failure(self, step: Step, command: str, code: int, fix: str) -> StepFailed:
        """The error of a run that ended with `code`: the engine's own words where it had some, else the end of its output."""
        generic = step.failed(f"`pulumi {command}` ended with code {code}", fix=fix)
        if not self.diagnostics:
            return generic
        return StepFailed(step.title, str(generic), log=step.log, tail=tuple(self.diagnostics[-DIAGNOSTIC_LINES:]), fix=fix)


def _name(metadata: Mapping[str, object]) -> str:
    kind = str(metadata.get("type", "")).split(":")[-1]
    return f"{kind} {str(metadata.get('urn', '')).split('::')[-1]}"


def _mapping(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
