"""The shell that `env` makes, and the plugins that its engine finds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox import environment, pluginhome, recipes
from sandbox.engine import Engine
from sandbox.errors import SandboxError
from sandbox.paths import REPO, Paths


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "a cache")


def test_a_shell_takes_the_variables_whatever_the_paths_hold(place: Paths) -> None:
    lines = environment.shell(place, {"PATH": "/usr/bin:/bin"})
    script = f'{lines}\nprintf "%s|%s|%s" "$KUBECONFIG" "$PULUMI_HOME" "$PATH"'
    printed = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=20, check=True).stdout
    assert printed == f"{place.kubeconfig}|{place.pulumi_home}|{REPO}/.venv/bin:{place.bin}:/usr/bin:/bin"


def test_the_shell_shows_no_passphrase(place: Paths) -> None:
    place.pulumi.mkdir(parents=True)
    place.passphrase.write_text("s3cret")
    assert "s3cret" not in environment.shell(place, {"PATH": ""})
    assert f"PULUMI_CONFIG_PASSPHRASE_FILE='{place.passphrase}'" in environment.shell(place, {"PATH": ""})


def test_settings_of_the_users_own_pulumi_do_not_reach_the_sandboxs(place: Paths) -> None:
    found = environment.process(place, {"PATH": "/bin", "PULUMI_ACCESS_TOKEN": "t", "PULUMI_CONFIG_PASSPHRASE": "p", "LANG": "C.UTF-8"})
    assert "PULUMI_ACCESS_TOKEN" not in found
    assert "PULUMI_CONFIG_PASSPHRASE" not in found
    assert found["LANG"] == "C.UTF-8"
    assert found["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] == "true"


def test_the_engine_reaches_the_node_without_the_users_proxy(place: Paths) -> None:
    found = environment.process(place, {"PATH": "/bin", "HTTPS_PROXY": "http://proxy", "https_proxy": "http://proxy"})
    assert not [key for key in found if "proxy" in key.lower()]


def test_a_shell_behind_a_proxy_still_uses_it_for_everything_but_the_node(place: Paths) -> None:
    lines = environment.shell(place, {"PATH": "", "HTTPS_PROXY": "http://proxy", "NO_PROXY": "corp"})
    assert "export NO_PROXY=corp,10.99.0.2,10.96.0.0/16,10.244.0.0/16" in lines
    assert "NO_PROXY" not in environment.shell(place, {"PATH": ""})


def test_what_the_engine_starts_keeps_its_compiled_modules_apart_from_the_clone(place: Paths) -> None:
    found = environment.process(place, {"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1"})
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert found["PYTHONPYCACHEPREFIX"] == str(place.compiled)


@pytest.mark.parametrize("stack", ["dev", "prod", ""])
def test_other_stacks_are_none_of_the_sandboxs(place: Paths, stack: str) -> None:
    with pytest.raises(SandboxError, match="none of the sandbox's") as refused:
        Engine(place, stack, Path("pulumi"))
    assert "sandbox-e2e" in refused.value.fix


def installed(place: Paths) -> dict[str, Path]:
    """Installs a built program for each plugin; what lies in PULUMI_HOME then."""
    built = {name: place.tools / name for name in recipes.PLUGINS}
    pluginhome.install(place, built)
    return {folder.name: next(folder.iterdir()) for folder in (place.pulumi_home / "plugins").iterdir()}


def test_plugins_lie_where_the_engine_looks_for_the_locked_versions(place: Paths) -> None:
    found = installed(place)
    assert set(found) == {
        f"resource-kubernetes-v{recipes.KUBERNETES_PLUGIN}",
        f"resource-random-v{recipes.RANDOM_PLUGIN}",
        f"resource-tls-v{recipes.TLS_PLUGIN}",
    }
    link = found[f"resource-tls-v{recipes.TLS_PLUGIN}"]
    assert (link.name, link.readlink()) == ("pulumi-resource-tls", place.tools / "tls")


def test_plugins_of_earlier_versions_go(place: Paths) -> None:
    (place.pulumi_home / "plugins" / "resource-random-v9.9.9").mkdir(parents=True)
    assert "resource-random-v9.9.9" not in installed(place)


def test_what_an_earlier_sandbox_had_in_a_plugins_place_goes_with_its_schema(place: Paths) -> None:
    name = f"random-v{recipes.RANDOM_PLUGIN}"
    script = place.pulumi_home / "plugins" / f"resource-{name}" / "pulumi-resource-random"
    schema = place.pulumi_home / "schemas" / f"random-{recipes.RANDOM_PLUGIN}.json"
    for file in (script, schema):
        file.parent.mkdir(parents=True)
        file.write_text("of another program")
    assert installed(place)[f"resource-{name}"].readlink() == place.tools / "random"
    assert not schema.exists()


def test_plugins_that_are_there_keep_their_schema(place: Paths) -> None:
    installed(place)
    schema = place.pulumi_home / "schemas" / f"random-{recipes.RANDOM_PLUGIN}.json"
    schema.parent.mkdir()
    schema.write_text("{}")
    installed(place)
    assert schema.is_file()
