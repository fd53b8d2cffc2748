"""One sandbox per machine: whose it is, and who may change it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import lock, processes
from sandbox.errors import SandboxError
from sandbox.paths import HOLDER, Paths
from sandbox.processes import Daemon, Record


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "cache")


def clone(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_the_first_clone_owns_the_sandbox_and_may_come_again(place: Paths, tmp_path: Path) -> None:
    first = clone(tmp_path, "first")
    lock.claim(place, first, take_over=False)
    lock.claim(place, first, take_over=False)
    assert lock.owner(place) == lock.Owner(str(first))


def test_a_second_clone_is_told_who_owns_it_and_how_to_take_over(place: Paths, tmp_path: Path) -> None:
    first, second = clone(tmp_path, "first"), clone(tmp_path, "second")
    lock.claim(place, first, take_over=False)
    with pytest.raises(SandboxError, match=str(first)) as refused:
        lock.claim(place, second, take_over=False)
    assert "--take-over" in refused.value.fix
    assert lock.owner(place) == lock.Owner(str(first))


def test_a_second_clone_may_take_over(place: Paths, tmp_path: Path) -> None:
    first, second = clone(tmp_path, "first"), clone(tmp_path, "second")
    lock.claim(place, first, take_over=False)
    lock.claim(place, second, take_over=True)
    assert lock.owner(place) == lock.Owner(str(second))


def test_a_clone_that_was_deleted_owns_nothing(place: Paths, tmp_path: Path) -> None:
    lock.claim(place, tmp_path / "gone", take_over=False)
    second = clone(tmp_path, "second")
    lock.claim(place, second, take_over=False)
    assert lock.owner(place) == lock.Owner(str(second))


def test_a_damaged_owner_file_is_nobodys(place: Paths, tmp_path: Path) -> None:
    place.owner.parent.mkdir(parents=True)
    place.owner.write_text("{")
    lock.claim(place, clone(tmp_path, "first"), take_over=False)


def test_a_released_sandbox_is_anybodys(place: Paths, tmp_path: Path) -> None:
    lock.claim(place, clone(tmp_path, "first"), take_over=False)
    lock.release(place)
    assert lock.owner(place) is None


def running_node(place: Paths) -> Record:
    daemon = Daemon("namespaces", ("sleep", "600"))
    return processes.spawn(daemon, place.process_file(HOLDER), place.logs / "namespaces.log")


def test_a_sandbox_that_runs_from_another_folder_is_left_alone(place: Paths, tmp_path: Path) -> None:
    other, marker = Paths(tmp_path / "other"), tmp_path / "marker"
    lock.mark_place(other, marker)
    record = running_node(other)
    try:
        with pytest.raises(SandboxError, match=f"lives in {other.root}") as refused:
            lock.refuse_other_place(place, marker)
        assert f"XDG_CACHE_HOME={tmp_path} make down" in refused.value.fix
        lock.refuse_other_place(other, marker)
    finally:
        processes.stop(record, grace=0)
    lock.refuse_other_place(place, marker)


def test_a_machine_without_a_sandbox_refuses_nobody(place: Paths, tmp_path: Path) -> None:
    lock.refuse_other_place(place, tmp_path / "marker")


def test_two_commands_do_not_change_the_sandbox_at_once(place: Paths) -> None:
    with lock.exclusive(place), pytest.raises(SandboxError, match=r"at work \(process \d+\)"), lock.exclusive(place):
        pass


def test_the_lock_is_free_after_the_command_whatever_happened(place: Paths) -> None:
    with pytest.raises(RuntimeError), lock.exclusive(place):
        raise RuntimeError
    with lock.exclusive(place):
        pass
