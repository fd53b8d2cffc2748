"""The Debian packages that the node and the image builder come from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.progress import Progress

# Package: what of it the sandbox uses, as a program on PATH or a file.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "procps": "sysctl",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
}


def missing(packages: Iterable[str] = PACKAGES) -> tuple[str, ...]:
    """Those of `packages` whose program or file is not there."""
    return tuple(package for package in packages if not _there(PACKAGES[package]))


def install(packages: Iterable[str], progress: Progress) -> None:
    """Installs `packages`, after saying so.

    Raises SandboxError where this is no Debian, StepFailed where apt fails.
    """
    names = list(packages)
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise SandboxError(f"not installed: {', '.join(names)}, and there is no apt-get", fix="install them by the means of this system")
    progress.say(f"{progress.clock()}       to install from Debian: {', '.join(names)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    fix = "see whether `apt-get update` works on this machine"
    with progress.step("Debian packages") as step:
        step.run(["apt-get", "update"], environment=environment, fix=fix, timeout=600)
        step.run(["apt-get", "install", "--yes", "--no-install-recommends", *names], environment=environment, fix=fix, timeout=1800)
        if absent := missing(names):
            raise step.failed(f"installed, but still not there: {', '.join(absent)}", fix="see the log")
        step.outcome = ", ".join(names)


def _there(what: str) -> bool:
    return Path(what).exists() if what.startswith("/") else shutil.which(what) is not None


def iptables_works() -> bool:
    """Whether iptables can make rules here, tried in a network namespace that is gone afterwards."""
    argv = ["unshare", "--net", "iptables", "-t", "nat", "-N", "GROUNDWORK-TRY"]
    return subprocess.run(argv, capture_output=True, timeout=30, check=False).returncode == 0
