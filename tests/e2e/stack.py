"""The stack under test: on the sandbox by its own command, or on the cluster of E2E_CONTEXT by nothing but `pulumi` and `kubectl`.

E2E_CONTEXT          a context of your kubeconfig; without it the sandbox is used
E2E_STACK            the stack's name; its namespace is groundwork-NAME
E2E_RUNTIME_IMAGE    the platform's image, where Pulumi.dev.yaml would build one
E2E_STORAGE_CLASS    where volumes come from, if not from the cluster's default
E2E_SETTINGS         any other settings, such as "images.postgres=registry.example/postgres:17 rotation=2"
PULUMI_BACKEND_URL   where the stack's state is kept; without it in a folder of the machine's temporary one
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import yaml

from sandbox import paths, stackfile
from sandbox.paths import REPO

STACK = os.environ.get("E2E_STACK") or "sandbox-e2e"
CONTEXT = os.environ.get("E2E_CONTEXT") or None
SETTINGS = ("registry.replicas=2",)  # beside what the stack file has
TEMPLATE = REPO / "Pulumi.dev.yaml"
UP_SECONDS = 900

Done = subprocess.CompletedProcess[str]


class Stack(ABC):
    """The stack under test. `kubeconfig` and `context` None: what kubectl takes by itself."""

    name: str
    kubeconfig: Path | None
    context: str | None
    config_file: Path

    @abstractmethod
    def run(self, *words: str, timeout: float = 300) -> Done:
        """Runs a command where `pulumi` and `kubectl` know the stack's state and its cluster."""

    @abstractmethod
    def missing(self) -> str | None:
        """Why there is nothing to test on, None where there is."""

    @abstractmethod
    def try_up(self, *settings: str) -> Done:
        """Deploys the stack with SETTINGS and `settings`, words like `rotation=2`; it may be refused."""

    def up(self, *settings: str) -> None:
        """The same where it must succeed."""
        succeeded(self.try_up(*settings))

    @abstractmethod
    def preview(self) -> Done:
        """Looks for changes with the settings of a plain `up`; it fails where there are any."""

    @abstractmethod
    def destroy(self) -> None:
        """Removes everything of the stack, and then the stack."""

    def kept_settings(self) -> tuple[str, ...]:
        """What the next `up` must say again, also after an interrupted run: rotations and authorities cannot be taken back at once."""
        context = () if self.context is None else ("--context", self.context)
        done = self.run("kubectl", *context, "get", "namespace", f"groundwork-{self.name}", "--output", "json")
        if done.returncode != 0:
            return ()
        said = cast("dict[str, dict[str, dict[str, str]]]", json.loads(done.stdout))["metadata"].get("annotations") or {}
        keys = {"rotation": "rotation={}", "authority": "certificates.authority={}", "trusted": "certificates.trusted=[{}]"}
        return tuple(form.format(said[f"groundwork/{key}"]) for key, form in keys.items() if f"groundwork/{key}" in said)

    def pulumi(self, command: str, *words: str, timeout: float = 300) -> Done:
        """`pulumi COMMAND` on the stack."""
        return self.run("pulumi", *command.split(), "--stack", self.name, "--non-interactive", *words, timeout=timeout)

    def pulumi_up(self, *words: str) -> Done:
        """`pulumi up` with the stack file as it is."""
        file = ("--cwd", str(REPO), "--config-file", str(self.config_file))
        return self.pulumi("up", *file, "--yes", "--skip-preview", "--color", "never", *words, timeout=UP_SECONDS)

    def outputs(self) -> dict[str, object]:
        """The stack's outputs, from the engine's state."""
        return json.loads(succeeded(self.pulumi("stack output", "--json")).stdout)


class SandboxStack(Stack):
    """A stack of the sandbox."""

    def __init__(self, name: str) -> None:
        place = paths.locate()
        self.name, self.context, self.kubeconfig, self.config_file = name, None, place.kubeconfig, place.stack_file(name)

    def run(self, *words: str, timeout: float = 300) -> Done:
        """In the shell that a person would use."""
        return _run("bash", "-c", f'eval "$({shlex.quote(sys.executable)} -m sandbox env)" && exec "$@"', "bash", *words, timeout=timeout)

    def missing(self) -> str | None:
        done = self.run("kubectl", "get", "--raw", "/readyz")
        return None if done.returncode == 0 else "no sandbox is running: the e2e tier needs `make up`, or E2E_CONTEXT with a cluster of yours"

    def try_up(self, *settings: str) -> Done:
        return self.command("up", *_overridden((*self.kept_settings(), *settings)), timeout=UP_SECONDS)

    def preview(self) -> Done:
        return self.command("preview", *_overridden(self.kept_settings()), "--expect-no-changes", timeout=600)

    def destroy(self) -> None:
        succeeded(self.command("destroy", timeout=UP_SECONDS))

    def command(self, command: str, *words: str, timeout: float) -> Done:
        """`python -m sandbox COMMAND` on the stack."""
        return _run(sys.executable, "-m", "sandbox", command, "--stack", self.name, *words, timeout=timeout)


class ContextStack(Stack):
    """A stack on a context of the user's own kubeconfig, with the settings of Pulumi.dev.yaml and of the environment."""

    def __init__(self, name: str, context: str, environment: Mapping[str, str] = os.environ) -> None:
        self.name, self.context, self.kubeconfig = name, context, None
        cluster = re.sub(r"[^\w.-]", "-", context)
        self._folder = Path(tempfile.gettempdir()) / f"groundwork-{os.getuid()}-{cluster}-{name}"
        self.config_file = self._folder / f"Pulumi.{name}.yaml"
        self._given = environment
        # The language host takes the first Python there is: the one that runs the tests has what the program needs.
        self._environment = {**environment, "PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"}
        if not environment.get("PULUMI_BACKEND_URL"):
            self._environment["PULUMI_BACKEND_URL"] = f"file://{self._folder}/backend"
        if not {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"} & environment.keys():
            self._environment["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(self._folder / "passphrase")

    def run(self, *words: str, timeout: float = 300) -> Done:
        return _run(*words, timeout=timeout, environment=self._environment, cwd=self._folder if self._folder.is_dir() else REPO)

    def missing(self) -> str | None:
        for program in ("pulumi", "kubectl"):
            if shutil.which(program, path=self._environment["PATH"]) is None:
                return f"E2E_CONTEXT={self.context} needs `{program}` on PATH"
        done = self.run("kubectl", "--context", str(self.context), "get", "--raw", "/readyz")
        return None if done.returncode == 0 else f"E2E_CONTEXT={self.context}: {done.stderr.strip()}"

    def try_up(self, *settings: str) -> Done:
        self._prepare((*self.kept_settings(), *settings))
        return self._on_program("up", "--yes", "--skip-preview", "--suppress-outputs", timeout=UP_SECONDS)

    def preview(self) -> Done:
        self._prepare(self.kept_settings())
        return self._on_program("preview", "--expect-no-changes", "--diff", timeout=600)

    def destroy(self) -> None:
        succeeded(self._on_program("destroy", "--yes", "--skip-preview", timeout=UP_SECONDS))
        succeeded(self.pulumi("stack rm", "--yes"))
        shutil.rmtree(self._folder)

    def _on_program(self, command: str, *words: str, timeout: float) -> Done:
        return self.pulumi(command, "--cwd", str(REPO), "--config-file", str(self.config_file), "--color", "never", *words, timeout=timeout)

    def _prepare(self, settings: tuple[str, ...]) -> None:
        """The stack, and its file with `settings`; what an interrupted run left is taken over."""
        (self._folder / "backend").mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        passphrase = self._folder / "passphrase"
        if not passphrase.is_file():
            passphrase.touch(mode=0o600)
            passphrase.write_text(secrets.token_urlsafe(32))
        # `stack init` writes a stack file into its project's folder: this one is the tests' own.
        shutil.copyfile(REPO / "Pulumi.yaml", self._folder / "Pulumi.yaml")
        done = self.run("pulumi", "stack", "init", self.name, "--no-select", "--non-interactive")
        assert done.returncode == 0 or "already exists" in done.stderr, done.stderr
        made = _load(self.config_file) if self.config_file.is_file() else {}  # what secrets are encrypted with stands in it
        self.config_file.write_text(yaml.safe_dump(made | settings_of(self._given, str(self.context), settings), sort_keys=False))


def settings_of(environment: Mapping[str, str], context: str, settings: tuple[str, ...] = ()) -> dict[str, object]:
    """Pulumi.dev.yaml for `context`, with what the environment says, SETTINGS and `settings`; the later wins."""
    filled: dict[str, object] = {"cluster.context": context}
    if image := environment.get("E2E_RUNTIME_IMAGE"):
        filled["images"] = {"runtime": image}  # instead of the template's, which says how to build one
    if storage_class := environment.get("E2E_STORAGE_CLASS"):
        filled["cluster.storage_class"] = storage_class
    filled |= stackfile.overrides([*shlex.split(environment.get("E2E_SETTINGS", "")), *SETTINGS, *settings])
    return stackfile.with_settings(_load(TEMPLATE), filled)


def under_test() -> Stack:
    """The stack that the environment asks for."""
    return SandboxStack(STACK) if CONTEXT is None else ContextStack(STACK, CONTEXT)


def succeeded(done: Done) -> Done:
    """`done`; fails with all that it printed where the command failed."""
    assert done.returncode == 0, f"{' '.join(map(str, done.args))}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def _overridden(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]


def _load(file: Path) -> dict[str, object]:
    return cast("dict[str, object]", yaml.safe_load(file.read_text()))


def _run(*words: str, timeout: float, environment: Mapping[str, str] | None = None, cwd: Path = REPO) -> Done:
    return subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
