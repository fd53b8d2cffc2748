"""What a machine must have, looked at before anything is changed."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sandbox import debian, network
from sandbox.errors import SandboxError
from sandbox.paths import Paths

GIB = 1024**3
MEMORY_GIB = 6.0
COLD_DISK_GIB = 25.0  # the Go modules and the compiler's cache of all tools, then the images
IMAGES_DISK_GIB = 6.0
WARM_DISK_GIB = 1.0


@dataclass(frozen=True)
class Machine:
    """What was found. Memory and disk in bytes; `iptables` None: not installed yet, so not tried."""

    root: bool
    linux: bool
    memory_available: int
    disk_free: int
    iptables: bool | None
    cgroup_version: int
    conflicts: tuple[str, ...]
    kubelet: bool


@dataclass(frozen=True)
class Work:
    """What `up` has to do: it decides how much room it needs."""

    builds_tools: bool
    builds_images: bool
    node_runs: bool


def inspect(paths: Paths) -> Machine:
    """This machine."""
    iptables = None if debian.missing(["iptables"]) else (os.geteuid() == 0 and debian.iptables_works())
    return Machine(
        root=os.geteuid() == 0,
        linux=Path("/proc/self/ns/net").exists(),
        memory_available=memory_available(Path("/proc/meminfo").read_text()),
        disk_free=shutil.disk_usage(_existing(paths.root)).free,
        iptables=iptables,
        cgroup_version=2 if Path("/sys/fs/cgroup/cgroup.controllers").is_file() else 1,
        conflicts=network.conflicts(network.host_routes()) if shutil.which("ip") else (),
        kubelet=Path("/var/lib/kubelet/pki").exists(),
    )


def disk_needed_gib(work: Work) -> float:
    """How much free disk the work needs."""
    if work.builds_tools:
        return COLD_DISK_GIB
    return IMAGES_DISK_GIB if work.builds_images else WARM_DISK_GIB


def problems(machine: Machine, work: Work, cache: Path) -> tuple[str, ...]:
    """What stands in the way, each with its fix; empty where nothing does."""
    found: list[str] = []
    if not machine.linux:
        return ("this is not Linux: the sandbox needs network namespaces. Use a Linux machine or a virtual one",)
    if not machine.root:
        found.append("you are not root: namespaces, mounts and packages need it. Run `sudo make up`, or use a virtual machine")
    if machine.iptables is False and machine.root:
        found.append("iptables cannot make rules here: the kernel lacks netfilter, or this is a container without NET_ADMIN")
    if not work.node_runs and machine.memory_available < MEMORY_GIB * GIB:
        have = machine.memory_available / GIB
        found.append(f"{have:.1f} GiB of memory are free, the sandbox needs {MEMORY_GIB:.0f}: stop something, or use a larger machine")
    needed = disk_needed_gib(work)
    if machine.disk_free < needed * GIB:
        why = "to build the tools" if work.builds_tools else "to build the images" if work.builds_images else "to run"
        have = machine.disk_free / GIB
        found.append(
            f"{have:.1f} GiB of disk are free below {cache}, {needed:.0f} are needed {why}: free some, or set XDG_CACHE_HOME to another disk"
        )
    if machine.conflicts and not work.node_runs:
        found.append(f"this machine already routes addresses that the sandbox needs ({', '.join(machine.conflicts)}): stop what uses them")
    return tuple(found)


def notes(machine: Machine) -> tuple[str, ...]:
    """What a person should know without being stopped by it."""
    found: list[str] = []
    if machine.cgroup_version == 2:
        found.append("this machine uses cgroup version 2: the sandbox was proven on version 1 only; if pods do not start, see the kubelet's log")
    if machine.kubelet:
        found.append("this machine seems to be a node of another cluster (/var/lib/kubelet/pki exists); the two were never tried together")
    return tuple(found)


def refuse(found: tuple[str, ...]) -> None:
    """Raises SandboxError that lists what stands in the way."""
    if found:
        raise SandboxError(
            "this machine cannot run the sandbox:\n" + "\n".join(f"  - {problem}" for problem in found), fix="nothing was changed; see above"
        )


def memory_available(meminfo: str) -> int:
    """MemAvailable in the text of /proc/meminfo, in bytes."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
