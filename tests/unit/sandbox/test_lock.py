"""One sandbox per machine: whose it is, and who may change it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import lock
from sandbox.errors import SandboxError
from sandbox.paths import Paths


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


def test_two_commands_do_not_change_the_sandbox_at_once(place: Paths) -> None:
    with lock.exclusive(place), pytest.raises(SandboxError, match=r"at work \(process \d+\)"), lock.exclusive(place):
        pass


def test_the_lock_is_free_after_the_command_whatever_happened(place: Paths) -> None:
    with pytest.raises(RuntimeError), lock.exclusive(place):
        raise RuntimeError
    with lock.exclusive(place):
        pass
