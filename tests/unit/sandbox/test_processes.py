"""A process file names one process and never a stranger that got its number later."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import processes
from sandbox.processes import Daemon, Record


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Record]:
    daemon = Daemon("sleeper", (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"))
    record = processes.spawn(daemon, tmp_path / "sleeper.json", tmp_path / "log" / "sleeper.log")
    yield record
    processes.stop(record, grace=0)


def test_a_started_process_runs_and_its_file_names_it(sleeper: Record, tmp_path: Path) -> None:
    assert processes.running(sleeper)
    assert processes.read(tmp_path / "sleeper.json") == sleeper


def test_a_stopped_process_runs_no_more(sleeper: Record) -> None:
    processes.stop(sleeper, grace=10)
    assert not processes.running(sleeper)


def test_a_process_that_ignores_the_signal_is_ended_by_force(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(600)"
    stubborn = Daemon("stubborn", (sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"))
    record = processes.spawn(stubborn, tmp_path / "stubborn.json", tmp_path / "stubborn.log")
    while not (tmp_path / "ready").exists():
        assert processes.running(record)
    processes.stop(record, grace=0.1)
    assert not processes.running(record)


def test_a_reused_number_is_a_stranger_and_is_left_alone() -> None:
    own = os.getpid()
    began = processes.started(own)
    assert began is not None
    stranger = Record(pid=own, started=began + 1, boot=processes.boot_id(), digest="")
    assert not processes.running(stranger)
    processes.stop(stranger, grace=0)  # would end this test run


def test_a_record_of_an_earlier_boot_is_nobody(sleeper: Record) -> None:
    assert not processes.running(dataclasses.replace(sleeper, boot="another"))


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"pid": 1})])
def test_a_damaged_file_names_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert processes.read(tmp_path / "x.json") is None


def test_a_process_that_has_ended_but_was_not_waited_for_does_not_run() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert processes.started(child) is None
    os.waitpid(child, 0)


def test_other_words_or_files_make_another_digest() -> None:
    base = Daemon("etcd", ("etcd", "--a"), inputs=("one",))
    others = (
        dataclasses.replace(base, argv=("etcd", "--b")),
        dataclasses.replace(base, inputs=("two",)),
        dataclasses.replace(base, environment={"A": "1"}),
    )
    assert len({base.digest, *(other.digest for other in others)}) == 4
    assert base.digest == Daemon("etcd", ("etcd", "--a"), inputs=("one",)).digest


def test_a_process_sees_neither_the_callers_input_nor_its_folder(tmp_path: Path) -> None:
    daemon = Daemon("asks", (sys.executable, "-c", "import os, sys; print(os.getcwd(), repr(sys.stdin.read()))"))
    record = processes.spawn(daemon, tmp_path / "asks.json", tmp_path / "asks.log")
    while processes.running(record):
        processes.reap()
    assert (tmp_path / "asks.log").read_text() == "/ ''\n"


def test_memory_of_a_process_that_is_gone_is_nothing(sleeper: Record) -> None:
    assert processes.memory_bytes(sleeper.pid) > 0
    processes.stop(sleeper, grace=10)
    assert processes.memory_bytes(sleeper.pid) == 0
