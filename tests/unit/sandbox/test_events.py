"""The engine's events as progress, and as the reason of a failure."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from sandbox.errors import StepFailed
from sandbox.events import Update
from sandbox.progress import Progress, Step

URN = "urn:pulumi:sandbox::groundwork::groundwork:data:Redis$kubernetes:apps/v1:StatefulSet::redis"


def pre(operation: str, timestamp: int = 100) -> dict[str, object]:
    return {"timestamp": timestamp, "resourcePreEvent": {"metadata": {"op": operation, "urn": URN, "type": "kubernetes:apps/v1:StatefulSet"}}}


def ended() -> dict[str, object]:
    return {"resOutputsEvent": {"metadata": {"op": "create", "urn": URN, "type": "kubernetes:apps/v1:StatefulSet"}}}


@pytest.fixture
def step(tmp_path: Path) -> Step:
    log = tmp_path / "stack.log"
    log.write_text("the engine's own last line\n")
    return Step("stack sandbox", log, list[str]().append)


def test_what_is_being_made_is_named_with_its_time() -> None:
    update = Update()
    update.take(pre("create"))
    assert update.note(112) == "0 resources done, busy: StatefulSet redis (12 s)"
    update.take(ended())
    assert update.note(113) == "1 resources done"


def test_what_does_not_change_is_not_waited_for() -> None:
    update = Update()
    update.take(pre("same"))
    assert "busy" not in update.note(100)


def test_the_summary_says_what_changed() -> None:
    update = Update()
    update.take({"summaryEvent": {"resourceChanges": {"create": 3, "same": 10}}})
    assert update.summary() == "3 create, 10 same"
    assert update.changed == 3


def test_a_run_without_changes_says_so() -> None:
    update = Update()
    update.take({"summaryEvent": {"resourceChanges": {"same": 112}}})
    assert update.summary() == "nothing to change, 112 resources"
    assert update.changed == 0


def test_a_failure_shows_the_engines_reasons_and_not_its_notes(step: Step) -> None:
    update = Update()
    update.take({"diagnosticEvent": {"severity": "info", "message": "just so you know"}})
    update.take({"diagnosticEvent": {"severity": "error", "urn": URN, "message": "<{%reset%}>pod has no memory\nevent: evicted<{%reset%}>\n"}})
    failure = update.failure(step, "up", 255, "do better")
    assert isinstance(failure, StepFailed)
    assert failure.tail == ("redis: pod has no memory", "    event: evicted")
    assert "`pulumi up` ended with code 255" in str(failure)


def test_a_failure_without_reasons_shows_the_end_of_the_output(step: Step) -> None:
    assert Update().failure(step, "up", 1, "-").tail == ("the engine's own last line",)


def test_events_are_read_while_they_are_written_even_in_pieces(tmp_path: Path, step: Step) -> None:
    file, done, update = tmp_path / "events", threading.Event(), Update()
    follower = threading.Thread(target=update.follow, args=(file, step, done))
    text = json.dumps(pre("create")) + "\n" + json.dumps(ended()) + "\n"
    with file.open("w") as stream:
        stream.write(text[:40])
    follower.start()
    while not step.note:
        assert follower.is_alive()
    with file.open("a") as stream:
        stream.write(text[40:])
    done.set()
    follower.join(20)
    assert update.done == 1
    assert not update.busy


def test_a_run_that_writes_no_events_ends(tmp_path: Path, step: Step) -> None:
    done = threading.Event()
    done.set()
    Update().follow(tmp_path / "never", step, done)
    assert step.note == "0 resources done"


def test_the_steps_note_follows_the_engine(tmp_path: Path) -> None:
    file, done = tmp_path / "events", threading.Event()
    file.write_text(json.dumps(pre("create", timestamp=0)) + "\n")
    done.set()
    with Progress(tmp_path, list[str]().append).step("stack") as step:
        Update().follow(file, step, done)
        assert step.note.startswith("0 resources done, busy: StatefulSet redis")
