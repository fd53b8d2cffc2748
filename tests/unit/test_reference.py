"""What the docs say of the program is written by the program."""

from __future__ import annotations

from pathlib import Path

from stacks import reference

ANEW = "write it anew: python -m stacks.reference"


def test_the_picture_in_the_readme_is_the_one_of_the_program() -> None:
    readme = Path("README.md").read_text()
    assert "postgres[(postgres)]" in readme
    assert reference.with_picture(readme) == readme, ANEW


def test_the_page_of_settings_is_the_one_of_the_program() -> None:
    page = Path("docs/settings.md").read_text()
    assert "| `context` | text | **must be set** |" in page
    assert reference.settings_page() == page, ANEW
