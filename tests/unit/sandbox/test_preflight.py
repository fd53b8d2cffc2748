"""What a machine lacks is said before anything is changed, all at once and with the fix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import preflight
from sandbox.errors import SandboxError
from sandbox.preflight import GIB, Machine, Work

GOOD = Machine(root=True, linux=True, memory_available=8 * GIB, disk_free=40 * GIB, iptables=True, cgroup_version=1, conflicts=(), kubelet=False)
COLD = Work(builds_tools=True, builds_images=True, node_runs=False)
WARM = Work(builds_tools=False, builds_images=False, node_runs=False)
CACHE = Path("/home/ada/.cache/groundwork")


def test_a_good_machine_has_no_problem() -> None:
    assert preflight.problems(GOOD, COLD, CACHE) == ()


@pytest.mark.parametrize(
    ("machine", "work", "words"),
    [
        (replace(GOOD, root=False, iptables=False), COLD, ("not root", "sudo make up")),
        (replace(GOOD, iptables=False), COLD, ("iptables", "NET_ADMIN")),
        (replace(GOOD, memory_available=int(5.5 * GIB)), COLD, ("5.5 GiB of memory", "needs 6")),
        (replace(GOOD, disk_free=24 * GIB), COLD, ("24.0 GiB of disk", "25 are needed to build the tools", str(CACHE))),
        (replace(GOOD, disk_free=5 * GIB), Work(builds_tools=False, builds_images=True, node_runs=False), ("6 are needed to build the images",)),
        (replace(GOOD, disk_free=GIB // 2), WARM, ("1 are needed to run",)),
        (replace(GOOD, conflicts=("10.96.0.0/12 by kube",)), COLD, ("10.96.0.0/12 by kube", "stop what uses them")),
    ],
)
def test_each_lack_is_named_with_its_fix(machine: Machine, work: Work, words: tuple[str, ...]) -> None:
    found = preflight.problems(machine, work, CACHE)
    assert len(found) == 1
    assert all(word in found[0] for word in words)


def test_all_lacks_are_said_at_once() -> None:
    machine = replace(GOOD, root=False, memory_available=GIB, disk_free=GIB)
    with pytest.raises(SandboxError) as refused:
        preflight.refuse(preflight.problems(machine, COLD, CACHE))
    assert str(refused.value).count("\n  - ") == 3
    assert "nothing was changed" in refused.value.fix


def test_a_machine_that_has_what_is_cached_needs_less_disk() -> None:
    machine = replace(GOOD, disk_free=10 * GIB)
    assert preflight.problems(machine, COLD, CACHE)
    assert not preflight.problems(machine, WARM, CACHE)


def test_a_running_node_is_not_asked_for_memory_or_addresses_again() -> None:
    machine = replace(GOOD, memory_available=GIB, conflicts=("10.99.0.0/30 by gw-host",))
    assert not preflight.problems(machine, replace(WARM, node_runs=True), CACHE)


def test_iptables_that_is_not_installed_yet_is_no_problem() -> None:
    assert not preflight.problems(replace(GOOD, iptables=None), COLD, CACHE)


def test_only_linux_will_do() -> None:
    assert preflight.problems(replace(GOOD, linux=False), COLD, CACHE)[0].startswith("this is not Linux")


def test_what_was_not_tried_is_said_without_stopping() -> None:
    assert "version 1 only" in preflight.notes(replace(GOOD, cgroup_version=2))[0]
    assert "another cluster" in preflight.notes(replace(GOOD, kubelet=True))[0]
    assert preflight.notes(GOOD) == ()


def test_available_memory_is_read_from_the_kernels_table() -> None:
    assert preflight.memory_available("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n") == 2048 * 1024
