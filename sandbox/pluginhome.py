"""PULUMI_HOME of the sandbox's engine: links to the plugins that were built, at the versions that the locked packages ask for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from sandbox import recipes
from sandbox.paths import Paths


def install(paths: Paths, binaries: Mapping[str, Path]) -> None:
    """Fills PULUMI_HOME with `binaries`, by the plugin's name; plugins of other versions go, since the engine would take the newest."""
    folder = paths.pulumi_home / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    places = {name: folder / f"resource-{name}-v{recipes.PLUGINS[name]}" for name in binaries}
    for old in set(folder.iterdir()) - set(places.values()):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name, binary in binaries.items():
        places[name].mkdir(exist_ok=True)
        link = places[name] / recipes.plugin_command(name)
        if link.is_symlink() and link.readlink() == binary:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(binary)
        # The engine keeps a plugin's schema under its version, which says nothing of how it was built.
        (paths.pulumi_home / "schemas" / f"{name}-{recipes.PLUGINS[name]}.json").unlink(missing_ok=True)
