"""The Pulumi engine on the sandbox: its own home, state and passphrase, and progress that tells what it waits for."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from sandbox import environment, pki, pluginhome, stackfile
from sandbox.errors import SandboxError
from sandbox.events import Update
from sandbox.paths import REPO, Paths
from sandbox.progress import Step
from sandbox.stackfile import SandboxFacts

PROJECT = "groundwork"
CREATE_SECONDS = 60
INTERRUPT_SECONDS = 90
FIX = "correct the cause and run the command again: it goes on where it stopped. `python -m sandbox status` shows the pods"


class Engine:
    """`pulumi`, on one stack."""

    def __init__(self, paths: Paths, stack: str, binary: Path) -> None:
        environment.refuse_foreign(stack)
        self.paths = paths
        self.stack = stack
        self._binary = binary

    @property
    def config(self) -> Path:
        """The stack file that the engine reads."""
        return self.paths.stack_file(self.stack)

    @property
    def checkpoint(self) -> Path:
        """The stack's state."""
        return self.paths.pulumi_backend / ".pulumi" / "stacks" / PROJECT / f"{self.stack}.json"

    def prepare(self, facts: SandboxFacts, plugins: Mapping[str, Path], step: Step) -> None:
        """Passphrase, plugins by name, stack and stack file; nothing of it changes a file of the repository."""
        self.paths.pulumi_backend.mkdir(parents=True, exist_ok=True)
        self.paths.pulumi.chmod(0o700)
        if not self.paths.passphrase.is_file():
            pki.write_private(self.paths.passphrase, secrets.token_urlsafe(32))
        pluginhome.install(self.paths, plugins)
        # `stack init` writes a stack file into its project's folder: this one is the sandbox's own.
        shutil.copyfile(REPO / "Pulumi.yaml", self.paths.pulumi / "Pulumi.yaml")
        if not self.checkpoint.is_file():
            self.config.unlink(missing_ok=True)
            step.run(
                [self._binary, "stack", "init", self.stack, "--no-select", "--non-interactive"],
                cwd=self.paths.pulumi,
                environment=environment.process(self.paths),
                fix=FIX,
                timeout=CREATE_SECONDS,
            )
        stackfile.write(self.config, facts)
        self.unlock()

    def up(self, step: Step) -> Update:
        """`pulumi up`, without a preview before it."""
        return self._run(step, "up", "--yes", "--skip-preview", "--suppress-outputs")

    def unfinished(self) -> tuple[dict[str, object], ...]:
        """The Kubernetes objects that an update was making when it was cut off: perhaps there, but not in the state."""
        operations = cast("list[dict[str, dict[str, object]]]", self._deployment().get("pending_operations") or [])
        made = [operation["resource"] for operation in operations if str(operation.get("type")) == "creating"]
        return tuple(
            {key: inputs[key] for key in ("apiVersion", "kind", "metadata")}
            for resource in made
            if str(resource.get("type", "")).startswith("kubernetes:")
            and (inputs := cast("dict[str, object]", resource.get("inputs") or {})).keys() >= {"apiVersion", "kind", "metadata"}
        )

    def interrupted(self) -> bool:
        """Whether an update was cut off in the middle of something."""
        return bool(self._deployment().get("pending_operations"))

    def settle(self, step: Step) -> None:
        """Takes what an interrupted update left open out of the state; what was being made must be gone by now."""
        self._run(step, "refresh", "--yes", "--skip-preview", "--clear-pending-creates")

    def preview(self, step: Step, *, expect_no_changes: bool) -> Update:
        """`pulumi preview`; with `expect_no_changes` a proposed change is a failure."""
        return self._run(step, "preview", *(["--expect-no-changes", "--diff"] if expect_no_changes else []))

    def destroy(self, step: Step) -> Update:
        """`pulumi destroy`, then the stack itself and its file."""
        update = self._run(step, "destroy", "--yes", "--skip-preview")
        argv = [self._binary, "stack", "rm", self.stack, "--yes", "--non-interactive"]
        step.run(argv, cwd=self.paths.pulumi, environment=environment.process(self.paths), fix=FIX, timeout=CREATE_SECONDS)
        self.config.unlink(missing_ok=True)
        return update

    def outputs(self) -> dict[str, object]:
        """The stack's outputs as its state has them; secret ones are left out, an empty table where there is no stack."""
        resources = self._deployment().get("resources")
        for resource in cast("list[dict[str, object]]", resources) if isinstance(resources, list) else []:
            if resource.get("type") == "pulumi:pulumi:Stack":
                outputs = cast("dict[str, object]", resource.get("outputs") or {})
                return {key: value for key, value in outputs.items() if not _secret(value)}
        return {}

    def _run(self, step: Step, command: str, *flags: str) -> Update:
        """Runs the engine and follows its events. An interrupt is passed on, so that it ends in order and frees its lock."""
        events = self.paths.logs / f"{self.stack}-{command}.events"
        events.unlink(missing_ok=True)
        environ = environment.process(self.paths) | {"PULUMI_DEBUG_COMMANDS": "true"}  # it is what shows --event-log
        argv = [self._binary, command, *flags, "--stack", self.stack, "--config-file", self.config, "--cwd", REPO]
        argv += ["--non-interactive", "--color", "never", "--event-log", events]
        with step.log.open("ab") as log:
            process = subprocess.Popen([str(word) for word in argv], env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            update = Update()
            done = threading.Event()
            follower = threading.Thread(target=update.follow, args=(events, step, done), daemon=True)
            follower.start()
            try:
                code = process.wait()
            except BaseException:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(INTERRUPT_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
            finally:
                done.set()
                follower.join()
        if code != 0:
            raise update.failure(step, command, code, FIX)
        return update

    def _deployment(self) -> Mapping[str, object]:
        try:
            state = json.loads(self.checkpoint.read_text())
            return cast("dict[str, object]", state["checkpoint"]["latest"] or {})
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def unlock(self) -> None:
        """Frees the stack from the lock of an engine that is gone: it was killed before it could do so itself."""
        for lock in (self.paths.pulumi_backend / ".pulumi" / "locks").glob(f"organization/{PROJECT}/{self.stack}/*.json"):
            try:
                owner = int(json.loads(lock.read_text())["pid"])
                alive = "pulumi" in Path(f"/proc/{owner}/cmdline").read_text()
            except (OSError, ValueError, KeyError, TypeError):
                alive = False
            if alive:
                raise SandboxError(f"another `pulumi` is at work on stack `{self.stack}`", fix="wait until it has ended")
            lock.unlink(missing_ok=True)
            lock.with_name(f"{lock.name}.attrs").unlink(missing_ok=True)


def _secret(value: object) -> bool:
    return isinstance(value, dict) and "4dabf18193072939515e22adb298388d" in value
