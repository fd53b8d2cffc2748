"""docs/reliability.md speaks of tests that exist, and every dependency is what it was when it was chosen (r47)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {49, 50}  # a whole suite and a whole matrix: their lines name the command
LOCKS = ("requirements.txt", "requirements-dev.txt", "app/requirements.txt")


def promised() -> list[int]:
    """The numbers of the table's lines."""
    return [int(number) for number in re.findall(r"^\| r(\d\d) \|", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE)]


def numbers_of_tests() -> set[int]:
    """The numbers in the names of tests."""
    names = (re.findall(r"def test_((?:r\d\d_(?:and_)?)+)", file.read_text()) for file in (ROOT / "tests").rglob("test_*.py"))
    return {int(number) for found in names for name in found for number in re.findall(r"r(\d\d)", name)}


def test_every_promise_has_a_number_of_its_own() -> None:
    assert promised() == list(range(1, 63))


def test_every_promise_has_a_test_of_its_number() -> None:
    assert set(promised()) - numbers_of_tests() - ELSEWHERE == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_r47_every_dependency_is_pinned_with_its_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    assert [line[:80] for line in lines if not re.match(r"\S+==\S+( ;[^#]*?)?\s+--hash=sha256:[0-9a-f]{64}", line)] == []


def test_r47_the_image_installs_what_the_hashes_say_and_nothing_else() -> None:
    installs = [line for line in (ROOT / "app" / "Dockerfile").read_text().splitlines() if "pip install" in line]
    assert len(installs) == 1
    assert {"--require-hashes", "--only-binary"} <= set(installs[0].split())
