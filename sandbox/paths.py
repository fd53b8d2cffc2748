"""Where the sandbox keeps things: one folder of the user's cache, the same for every clone.

<root>/tools, bin, go-build, go-mod, images, build, pycache: caches, made anew when missing
<root>/state/node: etcd, volumes, containers, certificates
<root>/state/pulumi: plugins, stack state, passphrase
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox.errors import SandboxError

REPO = Path(__file__).resolve().parent.parent
HOLDER = "namespaces"  # the process that holds the node's namespaces: it runs as long as there is a node
SOCKET_LIMIT = 100  # the kernel takes 108 bytes; the rest is room for suffixes
LONGEST_SOCKET = "state/node/kubelet/pod-resources/kubelet.sock"


@dataclass(frozen=True)
class Paths:
    """Every path of the sandbox, from one root."""

    root: Path

    @property
    def tools(self) -> Path:
        """Finished binaries, one folder for each key."""
        return self.root / "tools"

    @property
    def bin(self) -> Path:
        """What `python -m sandbox env` puts on PATH."""
        return self.root / "bin"

    @property
    def go_build(self) -> Path:
        """Go's build cache; dropped once every tool is there."""
        return self.root / "go-build"

    @property
    def go_modules(self) -> Path:
        """Go's module cache."""
        return self.root / "go-mod"

    @property
    def go(self) -> Path:
        """A Go from PyPI, where there is none on PATH."""
        return self.root / "go"

    @property
    def build(self) -> Path:
        """Scratch space of builds."""
        return self.root / "build"

    @property
    def compiled(self) -> Path:
        """Compiled Python modules of what the engine runs."""
        return self.root / "pycache"

    @property
    def images(self) -> Path:
        """The image builder's storage and the base system."""
        return self.root / "images"

    @property
    def owner(self) -> Path:
        """Names the clone that owns the sandbox."""
        return self.root / "owner.json"

    @property
    def mutex(self) -> Path:
        """Locked while a command changes something."""
        return self.root / "mutex"

    @property
    def logs(self) -> Path:
        """One file for each step of `up`."""
        return self.root / "log"

    @property
    def state(self) -> Path:
        """What `down` keeps and `clean` removes."""
        return self.root / "state"

    @property
    def node(self) -> Path:
        """Everything of the node."""
        return self.state / "node"

    @property
    def run(self) -> Path:
        """What lives as long as the node's namespaces: containerd's sockets and mounts, pod addresses."""
        return self.node / "run"

    def process_file(self, name: str) -> Path:
        """Says which process of the node `name` is."""
        return self.node / "processes" / f"{name}.json"

    @property
    def pki(self) -> Path:
        """The cluster's keys and certificates."""
        return self.node / "pki"

    @property
    def volumes(self) -> Path:
        """Where persistent volumes live."""
        return self.node / "volumes"

    @property
    def containerd_socket(self) -> Path:
        """containerd's API."""
        return self.run / "containerd.sock"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, context `sandbox`."""
        return self.state / "kubeconfig"

    @property
    def pulumi(self) -> Path:
        """Everything of the engine."""
        return self.state / "pulumi"

    @property
    def pulumi_home(self) -> Path:
        """PULUMI_HOME: plugins and credentials of this engine only."""
        return self.pulumi / "home"

    @property
    def pulumi_backend(self) -> Path:
        """The stacks' state."""
        return self.pulumi / "backend"

    @property
    def passphrase(self) -> Path:
        """The file that encrypts the stacks' secrets; made once, 0600."""
        return self.pulumi / "passphrase"

    def stack_file(self, stack: str) -> Path:
        """The copy of a stack's configuration, with what the sandbox filled in."""
        return self.pulumi / f"Pulumi.{stack}.yaml"


def locate(environment: Mapping[str, str] = os.environ) -> Paths:
    """The paths of this user.

    Raises SandboxError where the folder's name is too long to hold a socket.
    """
    home = environment.get("HOME") or str(Path.home())
    cache = environment.get("XDG_CACHE_HOME") or f"{home}/.cache"
    root = Path(cache) / "groundwork"
    longest = len(str(root / LONGEST_SOCKET))
    if longest >= SOCKET_LIMIT:
        raise SandboxError(
            f"the cache folder {root} is too deep: a socket below it would have {longest} characters, {SOCKET_LIMIT - 1} are possible",
            fix="set XDG_CACHE_HOME to a shorter path, such as /var/cache",
        )
    return Paths(root)
