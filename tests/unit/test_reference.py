"""What the docs say of the program is written by the program."""

from __future__ import annotations

from pathlib import Path

from components.lib.accounts import MAX_NAME
from components.namespace import MAX_STACK
from stacks import reference

ANEW = "write it anew: python -m stacks.reference"


def test_the_picture_in_the_readme_is_the_one_of_the_program() -> None:
    readme = Path("README.md").read_text()
    assert "postgres[(postgres)]" in readme
    assert reference.with_picture(readme) == readme, ANEW


def test_the_page_of_settings_is_the_one_of_the_program() -> None:
    page = Path("docs/settings.md").read_text()
    assert "| `context` | text | **must be set** |" in page
    assert "| `rotation` | number from 1 to 9999 | `1` |" in page
    assert "| `operator_cidrs` | list (each: block of addresses) | `[]` |" in page
    assert "| `retain_data` | true or false | `false` |" in page
    assert reference.settings_page() == page, ANEW


def test_the_page_of_settings_names_the_longest_names_as_they_are() -> None:
    page = Path("docs/settings.md").read_text()
    assert f"at most {MAX_NAME} of a-z, 0-9 and -, a letter first" in page
    assert f"at most {MAX_STACK} of a-z, 0-9 and -." in page
