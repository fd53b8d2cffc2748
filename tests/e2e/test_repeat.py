"""A second `pulumi up` with nothing changed changes nothing."""

from __future__ import annotations

from tests.e2e import stack
from tests.e2e.cluster import Platform


def test_a_preview_right_after_an_up_is_empty(platform: Platform) -> None:
    assert platform.outputs.version == 1
    stack.succeeded(platform.stack.preview())
