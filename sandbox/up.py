"""`up`: from nothing to the running platform, and from where it stopped to there. Every stage may be repeated."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sandbox import addons, debian, lock, node, nodeconfig, preflight, recipes
from sandbox.cluster import Kubectl
from sandbox.images import Images
from sandbox.node import Node
from sandbox.nodeconfig import HOLDER
from sandbox.paths import REPO, Paths
from sandbox.preflight import Work
from sandbox.progress import Progress
from sandbox.toolchain import Toolchain, key

NODE_IMAGES = ("pause", "debian")
PLATFORM_IMAGES = ("postgres", "redis", "rabbitmq", "consul", "runtime")


@dataclass(frozen=True)
class Sandbox:
    """The parts of a sandbox, made from its paths."""

    paths: Paths
    progress: Progress
    toolchain: Toolchain
    node: Node
    images: Images

    @property
    def kubectl(self) -> Kubectl:
        """kubectl; only after the tools are there."""
        return Kubectl(self.toolchain.command("kubectl"), self.paths)


def assemble(paths: Paths, progress: Progress) -> Sandbox:
    """The sandbox below `paths`."""
    toolchain = Toolchain(paths)

    def tool_key(name: str) -> str:
        return key(next(recipe for recipe in recipes.ALL if recipe.name == name), toolchain.planned_go())

    return Sandbox(paths, progress, toolchain, Node(paths), Images(paths, toolchain.command, tool_key))


def check(sandbox: Sandbox, stage: str) -> None:
    """Raises SandboxError that lists everything this machine lacks, before anything is changed."""
    machine = preflight.inspect(sandbox.paths)
    runs = machine.root and sandbox.node.runs(HOLDER)
    missing_tools = bool(sandbox.toolchain.missing(stage))
    work = Work(builds_tools=missing_tools, builds_images=not sandbox.paths.images.is_dir(), node_runs=runs)
    preflight.refuse(preflight.problems(machine, work, sandbox.paths.root))
    for note in preflight.notes(machine):
        sandbox.progress.say(f"note: {note}")


def bring_up_node(sandbox: Sandbox) -> None:
    """Tools and packages, the node, its own images and add-ons."""
    paths, progress = sandbox.paths, sandbox.progress
    debian.install(debian.missing(), progress)
    sandbox.toolchain.provide("node", progress)
    with progress.step("namespaces and network") as step:
        sandbox.node.start_namespaces(step)
        node.ensure_certificates(paths)
    plan = nodeconfig.plan(paths, sandbox.toolchain.command, sandbox.images.reference("pause"))
    with progress.step("control plane") as step:
        sandbox.node.start_control_plane(plan, step)
        sandbox.kubectl.wait_for_api(step)
    with progress.step("containerd, kubelet, kube-proxy") as step:
        sandbox.node.start_workers(plan, step)
    sandbox.images.provide(NODE_IMAGES, progress)
    with progress.step("DNS, NetworkPolicy, volumes") as step:
        helper = sandbox.images.reference("debian")
        addons.start(sandbox.node, sandbox.kubectl, addons.daemons(paths, sandbox.toolchain.command, helper), helper, step)
    with progress.step("the node is ready") as step:
        sandbox.kubectl.wait_for_node(step)


def bring_up_images(sandbox: Sandbox) -> None:
    """The images of the engines and of the runtime."""
    sandbox.toolchain.provide("images", sandbox.progress)
    names = [name for name in PLATFORM_IMAGES if name != "runtime" or (REPO / "app" / "Dockerfile").is_file()]
    sandbox.images.provide(names, sandbox.progress)


def up(sandbox: Sandbox, *, stage: str, take_over: bool, repository: Path = REPO) -> None:
    """Everything up to and including `stage`."""
    lock.refuse_stranger(sandbox.paths, repository, take_over=take_over)
    check(sandbox, stage)
    os.umask(0o022)
    with lock.exclusive(sandbox.paths):
        lock.claim(sandbox.paths, repository, take_over=take_over)
        bring_up_node(sandbox)
        if stage != "node":
            bring_up_images(sandbox)
