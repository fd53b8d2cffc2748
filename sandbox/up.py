"""`up`: from nothing to the running platform, and from where it stopped to there. Every stage may be repeated."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sandbox import addons, debian, lock, node, nodeconfig, preflight, recipes, status
from sandbox.cluster import Kubectl, Pod
from sandbox.engine import Engine
from sandbox.environment import STACK
from sandbox.errors import SandboxError
from sandbox.images import ALL, Images
from sandbox.node import Node
from sandbox.paths import HOLDER, REPO, Paths
from sandbox.preflight import Work
from sandbox.progress import Progress
from sandbox.stackfile import SandboxFacts
from sandbox.toolchain import Toolchain, key

NODE_IMAGES = ("pause", "debian")
# The engines' and the platform's own: the names are those of the stack file's `images`.
PLATFORM_IMAGES = (*(image.name for image in ALL if image.contract is not None), "runtime")
PODS_SECONDS = 180
PODS_FIX = "see the pod: `kubectl describe pod` and `kubectl logs` in the shell that `python -m sandbox env` makes"


@dataclass(frozen=True)
class Request:
    """What a command asks for. `only` None means everything."""

    only: str | None = None
    stack: str = STACK
    namespace: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict[str, object])
    take_over: bool = False
    repository: Path = REPO


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
        sandbox.node.start_control_plane(plan)

        def missing() -> str | None:
            sandbox.node.refuse_ended(plan.control_plane, step)
            return sandbox.kubectl.api_problem()

        step.log = sandbox.node.log("kube-apiserver")
        step.wait_for("the API server", missing, timeout=90, fix=f"see the logs of its parts in {step.log.parent}")
    with progress.step("containerd, kubelet, kube-proxy") as step:
        sandbox.node.start_workers(plan, step)
    sandbox.images.provide(NODE_IMAGES, progress)
    with progress.step("DNS, NetworkPolicy, volumes") as step:
        helper = sandbox.images.reference("debian")
        addons.start(sandbox.node, sandbox.kubectl, addons.daemons(paths, sandbox.toolchain.command, helper), helper, step)
    with progress.step("the node is ready") as step:
        step.log = sandbox.node.log("kubelet")
        step.wait_for("the node", sandbox.kubectl.node_problem, timeout=90, fix="see the log, and that of containerd beside it")


def bring_up_images(sandbox: Sandbox) -> None:
    """The images of the engines and of the runtime."""
    sandbox.toolchain.provide("images", sandbox.progress)
    sandbox.images.provide(PLATFORM_IMAGES, sandbox.progress)


def bring_up_stack(sandbox: Sandbox, request: Request) -> None:
    """The stack, and all its pods ready."""
    progress = sandbox.progress
    sandbox.toolchain.provide("stack", progress)
    engine = Engine(sandbox.paths, request.stack, sandbox.toolchain.command("pulumi"))
    with progress.step("Pulumi engine") as step:
        engine.prepare(facts(sandbox, request), plugins(sandbox), step)
    if engine.interrupted():
        with progress.step("put in order what an interrupted update left") as step:
            # The engine does not know them: a second creation would meet the first one's objects and fail.
            unfinished = engine.unfinished()
            sandbox.kubectl.delete(unfinished)
            engine.settle(step)
            step.outcome = f"{len(unfinished)} unfinished objects"
    with progress.step(f"stack {request.stack}") as step:
        step.outcome = engine.up(step).summary()
    with progress.step("every pod is ready") as step:
        namespace = str(engine.outputs().get("namespace", "")) or None
        since = dt.datetime.fromtimestamp((sandbox.paths.run / "ready").stat().st_mtime, dt.UTC).replace(microsecond=0)
        step.wait_for("the platform", lambda: unready(sandbox.kubectl.pods(namespace), since), timeout=PODS_SECONDS, fix=PODS_FIX, interval=1)
    sandbox.images.prune(sandbox.kubectl.images(), progress)


def plugins(sandbox: Sandbox) -> dict[str, Path]:
    """The engine's plugins, as they were built."""
    return {name: sandbox.toolchain.command(recipes.plugin_command(name)) for name in recipes.PLUGINS}


def unready(pods: Iterable[Pod], since: dt.datetime) -> str | None:
    """What is not ready yet, None where everything is. A pod that last started before `since` belongs to the node's life before this one."""
    waiting = [pod for pod in pods if not pod.finished and not pod.leaving and (not pod.ready or pod.started is None or pod.started < since)]
    return ", ".join(f"{pod.name} ({pod.note or 'starting again'})" for pod in waiting) or None


def facts(sandbox: Sandbox, request: Request) -> SandboxFacts:
    """What the stack must know of this machine."""
    images = {name: sandbox.images.reference(name) for name in PLATFORM_IMAGES}
    return SandboxFacts(images=images, namespace=request.namespace, overrides=request.overrides)


def up(sandbox: Sandbox, request: Request) -> None:
    """What `request` asks for, as far as it is not there yet."""
    lock.refuse_stranger(sandbox.paths, request.repository, take_over=request.take_over)
    lock.refuse_other_place(sandbox.paths)
    check(sandbox, request.only or recipes.STAGES[-1])
    if request.only == "stack":
        need_node(sandbox)
    with lock.exclusive(sandbox.paths):
        lock.claim(sandbox.paths, request.repository, take_over=request.take_over)
        lock.mark_place(sandbox.paths)
        if request.only != "stack":
            bring_up_node(sandbox)
        if request.only in {None, "images"}:
            bring_up_images(sandbox)
        if request.only in {None, "stack"}:
            bring_up_stack(sandbox, request)
    if request.only is None:
        sandbox.progress.say(summary(sandbox, request))


def need_node(sandbox: Sandbox) -> None:
    """Raises SandboxError where the node is not up."""
    if not sandbox.node.runs(HOLDER) or sandbox.kubectl.api_problem():
        raise SandboxError("the node is not running", fix="run `make up`")


def preview(sandbox: Sandbox, request: Request, *, expect_no_changes: bool) -> None:
    """What an `up` of the stack would change; prints what the engine prints."""
    lock.refuse_stranger(sandbox.paths, request.repository, take_over=False)
    need_node(sandbox)
    engine = Engine(sandbox.paths, request.stack, sandbox.toolchain.command("pulumi"))
    with lock.exclusive(sandbox.paths), sandbox.progress.step(f"preview of stack {request.stack}") as step:
        engine.prepare(facts(sandbox, request), plugins(sandbox), step)
        try:
            step.outcome = engine.preview(step, expect_no_changes=expect_no_changes).summary()
        finally:
            sandbox.progress.say(step.log.read_text())


def destroy(sandbox: Sandbox, request: Request) -> None:
    """Removes the stack and everything it made in the cluster."""
    lock.refuse_stranger(sandbox.paths, request.repository, take_over=False)
    engine = Engine(sandbox.paths, request.stack, sandbox.toolchain.command("pulumi"))
    if not engine.checkpoint.is_file():
        sandbox.progress.say(f"there is no stack {request.stack}")
        return
    need_node(sandbox)
    with lock.exclusive(sandbox.paths), sandbox.progress.step(f"destroy stack {request.stack}") as step:
        engine.prepare(facts(sandbox, request), plugins(sandbox), step)
        step.outcome = engine.destroy(step).summary()


def down(sandbox: Sandbox, repository: Path = REPO) -> None:
    """Stops everything; the data stays."""
    if stop(sandbox, repository):
        sandbox.progress.say(f"stopped. Volumes, cluster and stack state stay in {sandbox.paths.state} for the next `make up`")


def clean(sandbox: Sandbox, repository: Path = REPO) -> None:
    """Stops everything and removes data and caches."""
    if stop(sandbox, repository):
        with sandbox.progress.step("remove data and caches") as step:
            step.outcome = str(sandbox.paths.root)
            for entry in sandbox.paths.root.iterdir():
                if entry != sandbox.paths.logs:  # this step's own log is there
                    remove(entry)
        remove(sandbox.paths.root)


def stop(sandbox: Sandbox, repository: Path) -> bool:
    """Stops everything; says whether there was a sandbox."""
    if os.geteuid() != 0:
        raise SandboxError("you are not root: processes and namespaces of the sandbox are root's", fix="run the command with sudo")
    lock.refuse_stranger(sandbox.paths, repository, take_over=False)
    lock.refuse_other_place(sandbox.paths)
    if not sandbox.paths.root.is_dir():
        sandbox.progress.say(f"there is no sandbox in {sandbox.paths.root}")
        return False
    with lock.exclusive(sandbox.paths):
        sandbox.node.stop(sandbox.progress)
    return True


def remove(path: Path) -> None:
    """Removes a file or a whole folder.

    Raises SandboxError where something of it stays, such as a mount.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        raise SandboxError(f"{path} cannot be removed completely", fix=f"see what uses it (`mount | grep {path}`), then run `make clean` again")


def summary(sandbox: Sandbox, request: Request) -> str:
    """What a person sees at the end: what runs where, and what to try."""
    found, memory = status.platform_rows(sandbox.kubectl)
    outputs = Engine(sandbox.paths, request.stack, sandbox.toolchain.command("pulumi")).outputs()
    own = sum(process.memory for process in status.node_processes(sandbox.node))
    commands = status.try_commands(outputs, found)
    return "\n".join(
        (
            "",
            status.platform_table(found),
            "",
            f"memory: node {status.mib(own)} + pods {status.mib(sum(memory.values()))} = {status.mib(own + sum(memory.values()))}",
            "certificates, processes and all of this again: make status",
            "",
            "try:",
            *(f"  {command}" for command in commands),
        )
    )
