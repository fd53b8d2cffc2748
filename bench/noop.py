"""A `pulumi up` that changes nothing: the platform's stack against a bare SDK program with as many resources of the same kinds.

Needs a running sandbox; without one it measures nothing and says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.result import Result

STACK = "sandbox"
PEER_STACK = "sandbox-bench"
RUNS = 3
PEER = """\
import pulumi
import pulumi_random as random
import pulumi_tls as tls
from pulumi_kubernetes import Provider, core, meta

provider = Provider("kubernetes", kubeconfig="", context="sandbox")
kubernetes = pulumi.ResourceOptions(provider=provider)
namespace = core.v1.Namespace("peer", metadata=meta.v1.ObjectMetaArgs(name="{namespace}"), opts=kubernetes)
for number in range({objects}):
    core.v1.ConfigMap(
        f"object-{{number}}",
        metadata=meta.v1.ObjectMetaArgs(name=f"object-{{number}}", namespace=namespace.metadata.name),
        data={{"number": str(number)}},
        opts=kubernetes,
    )
for number in range({passwords}):
    random.RandomPassword(f"password-{{number}}", length=32)
for number in range({keys}):
    tls.PrivateKey(f"key-{{number}}", algorithm="ECDSA", ecdsa_curve="P256")
"""


def shell(command: str, *, folder: Path | None = None) -> str:
    """What a command prints in the sandbox's environment. Raises CalledProcessError."""
    script = f'eval "$({sys.executable} -m sandbox env)" && {f"cd {folder} && " if folder else ""}{command}'
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout


def counts() -> tuple[int, int, int]:
    """How many Kubernetes objects, random values and TLS resources the platform's stack has."""
    state = json.loads(shell(f"pulumi stack export --stack {STACK}"))
    types = [resource["type"] for resource in state["deployment"]["resources"]]
    return tuple(sum(kind.startswith(prefix) for kind in types) for prefix in ("kubernetes:", "random:", "tls:"))  # type: ignore[return-value]


def timed(command: str, *, folder: Path | None = None) -> float:
    """Seconds of a command."""
    began = time.perf_counter()
    shell(command, folder=folder)
    return time.perf_counter() - began


def run() -> list[Result]:
    """Measures both in turn and takes the peer's stack down again."""
    try:
        shell("kubectl get --raw /readyz")
        objects, passwords, keys = counts()
    except subprocess.CalledProcessError:
        print("noop: skipped, no sandbox is running (make up)")
        return []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "Pulumi.yaml").write_text("name: peer\nruntime: python\n")
        (folder / "__main__.py").write_text(PEER.format(namespace=PEER_STACK, objects=objects - 1, passwords=passwords, keys=keys))
        shell(f"pulumi stack init {PEER_STACK}", folder=folder)
        try:
            shell(f"pulumi up --yes --stack {PEER_STACK}", folder=folder)
            pairs = [
                (timed(f"{sys.executable} -m sandbox up --only stack"), timed(f"pulumi up --yes --stack {PEER_STACK}", folder=folder))
                for _ in range(RUNS)
            ]
        finally:
            shell(f"pulumi destroy --yes --stack {PEER_STACK} && pulumi stack rm --yes --stack {PEER_STACK}", folder=folder)
    ours, peer = median(a for a, _ in pairs), median(b for _, b in pairs)
    return [
        Result(
            name="no-op pulumi up of the sandbox stack",
            ours=ours,
            peer=peer,
            peer_name=f"a bare program with {objects + passwords + keys} resources",
            unit="s",
            ratio=ours / peer,
            target="<= 1.2x",
            holds=ours / peer <= 1.2,
        )
    ]
