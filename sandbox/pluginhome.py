"""PULUMI_HOME of the sandbox's engine: the official plugins where they can be had, the stand-ins where they cannot."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sandbox import recipes
from sandbox.paths import REPO, Paths

STAND_INS = {"random": ("sandbox.plugins.random_plugin", recipes.RANDOM_PLUGIN), "tls": ("sandbox.plugins.tls_plugin", recipes.TLS_PLUGIN)}


@dataclass(frozen=True)
class Plugin:
    """A plugin as the engine will find it. `official` None for a stand-in, else the file it came from."""

    name: str
    version: str
    official: Path | None


def official(name: str, version: str, home: Path) -> Path | None:
    """The official plugin in the user's own Pulumi folder, if it is there."""
    file = home / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
    return file if file.is_file() else None


def plan(kubernetes: Path, user_home: Path) -> tuple[Plugin, ...]:
    """The plugins to install; `kubernetes` is the provider that was built or found."""
    stand_ins = (Plugin(name, version, official(name, version, user_home)) for name, (_, version) in STAND_INS.items())
    return (Plugin("kubernetes", recipes.KUBERNETES_PLUGIN, kubernetes), *stand_ins)


def install(paths: Paths, kubernetes: Path, user_home: Path) -> tuple[Plugin, ...]:
    """Fills PULUMI_HOME; plugins of other versions go, since the engine would take the newest."""
    if user_home.resolve() == paths.pulumi_home.resolve():  # a shell after `eval "$(python -m sandbox env)"`: what lies there is what we put there
        user_home = Path.home() / ".pulumi"
    plugins = plan(kubernetes, user_home)
    folder = paths.pulumi_home / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"resource-{plugin.name}-v{plugin.version}" for plugin in plugins}
    for old in folder.iterdir():
        if old.name not in wanted:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for plugin in plugins:
        place = folder / f"resource-{plugin.name}-v{plugin.version}"
        place.mkdir(exist_ok=True)
        binary = place / f"pulumi-resource-{plugin.name}"
        if plugin.official is not None:
            if not (binary.is_symlink() and binary.readlink() == plugin.official):
                binary.unlink(missing_ok=True)
                binary.symlink_to(plugin.official)
            continue
        script = launcher(STAND_INS[plugin.name][0], REPO, Path(sys.executable))
        if binary.is_symlink() or not binary.is_file() or binary.read_text() != script:
            binary.unlink(missing_ok=True)
            binary.write_text(script)
            binary.chmod(0o755)
    return plugins


def launcher(module: str, repository: Path, python: Path) -> str:
    """The program that the engine starts for a stand-in."""
    return f'#!/bin/sh\nPYTHONPATH="{repository}" exec "{python}" -m {module} "$@"\n'
