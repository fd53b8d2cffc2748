"""What a person sees while `up` works, and when it fails."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from sandbox import progress
from sandbox.errors import SandboxError, StepFailed
from sandbox.progress import Progress


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def shown(tmp_path: Path, said: list[str]) -> Progress:
    return Progress(tmp_path, said.append)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_finished_step_is_one_line_with_its_outcome_and_time(shown: Progress, said: list[str]) -> None:
    with shown.step("build kube") as step:
        step.outcome = "cached"
    assert len(said) == 1
    assert "ok   build kube: cached (0.0 s)" in said[0]


def test_output_goes_to_the_steps_own_log(shown: Progress, tmp_path: Path) -> None:
    with shown.step("image debian") as step:
        step.run(python("print('hello')"), fix="-")
    assert "hello" in (tmp_path / "image-debian.log").read_text()


def test_a_failing_program_names_step_code_last_lines_and_fix(shown: Progress) -> None:
    code = "import sys; print('one'); print('two'); sys.exit(3)"
    with pytest.raises(StepFailed) as failed, shown.step("build kube") as step:
        step.run(python(code), fix="buy more disk")
    text = progress.report(failed.value)
    assert "FAILED in step «build kube»" in text
    assert "code 3" in text
    assert "| two" in text
    assert str(step.log) in text
    assert "what to do: buy more disk" in text


def test_only_the_end_of_a_long_log_is_shown(shown: Progress) -> None:
    with pytest.raises(StepFailed) as failed, shown.step("s") as step:
        step.run(python("import sys; [print('line', n) for n in range(1000)]; sys.exit(1)"), fix="-")
    assert failed.value.tail[-1] == "line 999"
    assert len(failed.value.tail) == progress.TAIL_LINES


def test_a_program_that_is_missing_is_named(shown: Progress) -> None:
    with pytest.raises(StepFailed, match="`no-such-program` is not installed"), shown.step("s") as step:
        step.run(["no-such-program"], fix="-")


def test_a_program_that_takes_too_long_is_ended(shown: Progress) -> None:
    with pytest.raises(StepFailed, match="took longer than"), shown.step("s") as step:
        step.run(python("import time; time.sleep(60)"), fix="-", timeout=0.2)


def test_an_error_inside_a_step_gets_the_steps_name_and_keeps_its_fix(shown: Progress) -> None:
    with pytest.raises(StepFailed) as failed, shown.step("network"):
        raise SandboxError("taken", fix="free it")
    assert failed.value.step == "network"
    assert failed.value.fix == "free it"


def test_a_failed_step_is_never_reported_as_done(shown: Progress, said: list[str]) -> None:
    with pytest.raises(StepFailed), shown.step("network"):
        raise SandboxError("taken", fix="free it")
    assert said == []


def test_a_long_step_gives_a_sign_of_life_with_what_it_is_busy_with(tmp_path: Path) -> None:
    said: list[str] = []
    alive = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if "busy with etcd" in line:
            alive.set()

    with Progress(tmp_path, say, heartbeat=0.01).step("build kube") as step:
        step.note = "busy with etcd"
        assert alive.wait(20)
    assert any("...  build kube" in line and "so far" in line for line in said)


def test_a_sign_of_life_shows_output_and_not_the_command_line(tmp_path: Path) -> None:
    said: list[str] = []
    with Progress(tmp_path, said.append, heartbeat=0.01).step("build kube") as step:
        step.log.write_text("compiling etcd\n$ go build\n")
        while len(said) < 2:
            pass
    assert "| compiling etcd" in said[1]


def test_waiting_ends_with_what_was_missing(shown: Progress) -> None:
    with pytest.raises(StepFailed, match=r"the node is not there after .*: kubelet silent"), shown.step("s") as step:
        step.wait_for("the node", lambda: "kubelet silent", timeout=0.05, fix="-", interval=0.01)


def test_waiting_ends_as_soon_as_nothing_is_missing(shown: Progress) -> None:
    answers = iter(["not yet", None])
    with shown.step("s") as step:
        step.wait_for("the node", lambda: next(answers), timeout=20, fix="-", interval=0.001)
    assert list(answers) == []


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (12.3, "12 s"), (185, "3 min 05 s"), (3600, "60 min 00 s")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
