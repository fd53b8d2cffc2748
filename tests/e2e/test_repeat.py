"""A second `pulumi up` with nothing changed changes nothing."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.cluster import SETTINGS, STACK, Platform


def test_a_preview_right_after_an_up_is_empty(platform: Platform) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "preview", "--stack", STACK, *SETTINGS, "--expect-no-changes"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert platform.outputs.version == 1
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
