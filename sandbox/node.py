"""The node's life: start what is not running, stop everything, leave nothing behind."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox import environment, network, nodeconfig, pki, processes
from sandbox.errors import SandboxError
from sandbox.nodeconfig import CGROUP, NodePlan
from sandbox.paths import HOLDER, Paths
from sandbox.processes import Daemon, Record
from sandbox.progress import Progress, Step

STOP_SECONDS = 15.0  # how long a container may take to end before it is killed
DAEMON_SECONDS = 10.0
LOG_LIMIT = 20 * 1024 * 1024
KUBELET_PORT = 10250
CGROUPS = Path("/sys/fs/cgroup")
V2_CONTROLLERS = "+cpuset +cpu +io +memory +pids"


@dataclass(frozen=True)
class _Task:
    """A running container."""

    container: str
    pid: int
    name: str
    stop_signal: int

    @property
    def stateful(self) -> bool:
        """Whether it is a pod of a StatefulSet, by its number."""
        return re.fullmatch(r".*-\d{1,3}", self.name) is not None


class Node:
    """The one node of a sandbox."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def record(self, name: str) -> Record | None:
        """The record of the process `name`, whether or not it still runs."""
        return processes.read(self.paths.process_file(name))

    def runs(self, name: str) -> bool:
        """Whether the process `name` runs."""
        return processes.running(self.record(name))

    def names(self) -> tuple[str, ...]:
        """The processes that were started, by name."""
        return tuple(sorted(file.stem for file in self._records.glob("*.json")))

    def inside(self) -> tuple[str, ...]:
        """The words that run a command in the node's namespaces.

        Raises SandboxError where the node is not up.
        """
        holder = self.record(HOLDER)
        if holder is None or not processes.running(holder):
            raise SandboxError("the node is not running", fix="run `make up`")
        return ("nsenter", "-t", str(holder.pid), "-n", "-m", "--")

    def ensure(self, daemon: Daemon) -> bool:
        """Starts `daemon`, or restarts it where it runs with other words or files. Says whether it did."""
        record, holder = self.record(daemon.name), self.record(HOLDER)
        if daemon.namespaces and holder is not None:
            # One that was started in the namespaces of an earlier holder is in the wrong ones.
            daemon = replace(daemon, inputs=(*daemon.inputs, f"{holder.boot} {holder.pid} {holder.started}"))
        if record is not None and processes.running(record):
            if record.digest == daemon.digest:
                return False
            processes.stop(record, grace=DAEMON_SECONDS)
        log = self.log(daemon.name)
        if log.is_file() and log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".old.log"))
        prefix = self.inside() if daemon.namespaces else ()
        processes.spawn(daemon, self.paths.process_file(daemon.name), log, prefix=prefix, environment=environment.without_proxies())
        return True

    def log(self, name: str) -> Path:
        """The output of the process `name`."""
        return self.paths.node / "log" / f"{name}.log"

    def start_namespaces(self, step: Step) -> None:
        """Makes the namespaces and the network. Whatever an earlier, lost node left running is ended first."""
        if not self.runs(HOLDER):
            for name in ("kubelet", *self.names()):
                processes.stop(self.record(name), grace=0, number=signal.SIGKILL)
            self._end_leftovers()
            shutil.rmtree(self.paths.run, ignore_errors=True)
            self.paths.run.mkdir(parents=True)
            self.ensure(nodeconfig.holder(self.paths))
            ready = self.paths.run / "ready"
            step.wait_for(
                "the node's namespaces",
                lambda: None if ready.exists() else "no namespaces yet",
                timeout=10,
                fix=f"see {self.log(HOLDER)}: this machine may not allow `unshare --net --mount`",
            )
        holder = self.record(HOLDER)
        assert holder is not None
        network.connect(holder.pid, step)
        _make_cgroup()

    def start_control_plane(self, plan: NodePlan) -> None:
        """Certificates, files, etcd, API server, controllers, scheduler."""
        for file, content in plan.files.items():
            pki.write_private(file, content)
        (self.paths.node / "etcd").mkdir(mode=0o700, exist_ok=True)
        for daemon in plan.control_plane:
            self.ensure(daemon)
        pki.write_private(self.paths.kubeconfig, pki.kubeconfig(self.paths.pki, "admin", embed=True))

    def start_workers(self, plan: NodePlan, step: Step) -> None:
        """containerd first: the kubelet ends where containerd is not ready for it, and is then started again."""
        kubelet = next(daemon for daemon in plan.workers if daemon.name == "kubelet")
        for daemon in plan.workers:
            self.ensure(daemon)
            if daemon.name == "containerd":
                step.log = self.log("containerd")
                step.wait_for("containerd", self._containerd_missing, timeout=30, fix="see the log")

        def missing() -> str | None:
            if _answers(network.NODE_ADDRESS, KUBELET_PORT):
                return None
            processes.reap()
            return "starting again" if self.ensure(kubelet) else "it does not answer yet"

        step.log = self.log("kubelet")
        step.wait_for("the kubelet", missing, timeout=60, fix="see the log", interval=0.5)
        self.refuse_ended(plan.workers, step)

    def refuse_ended(self, daemons: Iterable[Daemon], step: Step) -> None:
        """Raises StepFailed with the last words of a process that has ended."""
        processes.reap()
        for daemon in daemons:
            if not self.runs(daemon.name):
                step.log = self.log(daemon.name)
                raise step.failed(f"{daemon.name} has ended", fix="its last words say why; correct that and run the command again")

    def stop(self, progress: Progress) -> None:
        """Ends everything and removes every trace outside the state folder. Data stays. May be repeated."""
        with progress.step("stop the cluster's processes"):
            # The kubelet first: it would restart what is ended.
            ordered = ["kubelet", *(name for name in self.names() if name not in {"kubelet", "containerd", HOLDER, "etcd", "kube-apiserver"})]
            for name in ordered:
                processes.stop(self.record(name), grace=DAEMON_SECONDS)
        with progress.step("stop the pods") as step:
            self._stop_containers(step)
        with progress.step("stop API server, etcd and containerd"):
            for name in ("kube-apiserver", "etcd", "containerd"):
                processes.stop(self.record(name), grace=DAEMON_SECONDS)
        with progress.step("remove the node's namespaces") as step:
            processes.stop(self.record(HOLDER), grace=0, number=signal.SIGKILL)
            self._end_leftovers()
            shutil.rmtree(self._records, ignore_errors=True)
            shutil.rmtree(self.paths.run, ignore_errors=True)
            if remains := self.remains():
                raise step.failed(f"still there: {', '.join(remains)}", fix="run `make down` again; if it stays, restart the machine")

    def remains(self) -> tuple[str, ...]:
        """What of the node is on this machine, apart from files: empty after `stop`."""
        found = [f"process {pid}" for pid in self._own_processes()]
        found += [f"process {name}" for name in self.names() if self.runs(name)]
        found += [f"mount {target}" for target in self._mounts()]
        found += [f"cgroup {folder}" for folder in _cgroups()]
        if Path(f"/sys/class/net/{network.HOST_INTERFACE}").exists():
            found.append(f"interface {network.HOST_INTERFACE}")
        return tuple(found)

    def _end_leftovers(self) -> None:
        end = time.monotonic() + 10
        while own := list(self._own_processes()):
            for pid in own:
                processes.stop(_now(pid), grace=0, number=signal.SIGKILL)
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        for target in self._mounts():
            subprocess.run(["umount", "-l", target], capture_output=True, timeout=30, check=False)
        network.disconnect()
        for folder in _cgroups():
            _remove_cgroup(folder)
        for folder in nodeconfig.PRIVATE_FOLDERS:
            if Path(folder).is_dir() and not os.listdir(folder):  # noqa: PTH208 - emptiness is all that matters
                Path(folder).rmdir()

    def _own_processes(self) -> Iterator[int]:
        """Processes that no record names: shims, and everything in a pod's cgroup."""
        for process in processes.every():
            shim = "containerd-shim" in process.command and str(self.paths.containerd_socket) in process.command
            pod = any(line.split(":", 2)[2].startswith(f"{CGROUP}/") for line in process.cgroup.splitlines())
            if shim or pod:
                yield process.pid

    def _mounts(self) -> list[str]:
        """Mounts of the host below the node's folder, innermost first. The node's own namespace keeps its mounts to itself."""
        targets = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((target for target in targets if target.startswith(f"{self.paths.node}/")), key=len, reverse=True)

    def _stop_containers(self, step: Step) -> None:
        """Each container by the signal its image asks for, then by force. Their records go too, so that nothing is restored."""
        if not self.runs("containerd"):
            return
        tasks = [_Task(container, pid, *self._manners(container)) for container, pid in self._tasks()]
        # Servers with data last: their clients say goodbye to a server that still answers.
        for wave in ([task for task in tasks if not task.stateful], [task for task in tasks if task.stateful]):
            _stop_tasks(wave, step)
        for task in tasks:
            self._ctr("tasks", "delete", "--force", task.container)
        for container in self._ctr("containers", "list", "--quiet").split():
            self._ctr("containers", "delete", container)
        step.outcome = f"{len(tasks)} containers"

    def _tasks(self) -> Iterator[tuple[str, int]]:
        for line in self._ctr("tasks", "list").splitlines()[1:]:
            container, pid, state = line.split()[:3]
            if state == "RUNNING":
                yield container, int(pid)

    def _manners(self, container: str) -> tuple[str, int]:
        """A container's name, and the signal by which its image wants to be stopped."""
        try:
            labels = json.loads(self._ctr("containers", "info", container))["Labels"]
            signal_name = labels.get("io.containerd.image.config.stop-signal", "SIGTERM")
            number = signal.Signals[signal_name] if signal_name.startswith("SIG") else int(signal_name)
            return labels.get("io.kubernetes.pod.name", container[:12]), number
        except (ValueError, KeyError):
            return container[:12], signal.SIGTERM

    def _containerd_missing(self) -> str | None:
        done = self._ctr_process("images", "list", "--quiet")
        return None if done.returncode == 0 else "it does not answer yet"

    def _ctr(self, *words: str) -> str:
        return self._ctr_process(*words).stdout

    def _ctr_process(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = ["ctr", "--address", str(self.paths.containerd_socket), "--namespace", "k8s.io", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    @property
    def _records(self) -> Path:
        return self.paths.node / "processes"


def _stop_tasks(tasks: Sequence[_Task], step: Step) -> None:
    """Asks all of them to end, and waits for it as long as is decent."""
    for task in tasks:
        if processes.started(task.pid) is not None:
            os.kill(task.pid, task.stop_signal)
    end = time.monotonic() + STOP_SECONDS
    while time.monotonic() < end and (ending := [task.name for task in tasks if processes.started(task.pid) is not None]):
        step.note = f"waiting for {', '.join(ending)}"
        time.sleep(0.1)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def ensure_certificates(paths: Paths) -> None:
    """Makes or renews the cluster's certificates."""
    pki.ensure(paths.pki, dt.datetime.now(dt.UTC))


def _now(pid: int) -> Record | None:
    began = processes.started(pid)
    return None if began is None else Record(pid, began, processes.boot_id(), "")


def _hierarchies() -> list[Path]:
    """The roots of the cgroup trees: one for each controller (version 1) or the only one (version 2)."""
    if (CGROUPS / "cgroup.controllers").is_file():
        return [CGROUPS]
    return sorted(folder for folder in CGROUPS.iterdir() if folder.is_dir() and not folder.is_symlink())


def _make_cgroup() -> None:
    for root in _hierarchies():
        if root == CGROUPS:
            for controller in V2_CONTROLLERS.split():
                try:
                    (root / "cgroup.subtree_control").write_text(controller)
                except OSError:
                    continue  # not every kernel has every controller; the kubelet says which ones it misses
        (root / CGROUP[1:]).mkdir(exist_ok=True)


def _cgroups() -> list[Path]:
    return [folder for root in _hierarchies() if (folder := root / CGROUP[1:]).is_dir()]


def _remove_cgroup(folder: Path) -> None:
    for below in sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: len(path.parts), reverse=True):
        _rmdir(below)
    _rmdir(folder)


def _rmdir(folder: Path) -> None:
    for _ in range(20):  # the kernel needs a moment after the last process
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
