"""The shell that `env` makes, and the plugins that its engine finds."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from sandbox import environment, pluginhome, processes, recipes
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


def installed(place: Paths, user_home: Path) -> dict[str, Path]:
    kubernetes = user_home / "built"
    kubernetes.parent.mkdir(parents=True, exist_ok=True)
    kubernetes.write_text("binary")
    pluginhome.install(place, kubernetes, user_home)
    return {folder.name: next(folder.iterdir()) for folder in (place.pulumi_home / "plugins").iterdir()}


def test_plugins_lie_where_the_engine_looks_for_the_locked_versions(place: Paths, tmp_path: Path) -> None:
    assert set(installed(place, tmp_path / "home")) == {
        f"resource-kubernetes-v{recipes.KUBERNETES_PLUGIN}",
        f"resource-random-v{recipes.RANDOM_PLUGIN}",
        f"resource-tls-v{recipes.TLS_PLUGIN}",
    }


def test_an_official_plugin_that_the_user_has_wins_over_a_stand_in(place: Paths, tmp_path: Path) -> None:
    theirs = tmp_path / "home" / "plugins" / f"resource-tls-v{recipes.TLS_PLUGIN}" / "pulumi-resource-tls"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("official")
    found = installed(place, tmp_path / "home")
    assert found[f"resource-tls-v{recipes.TLS_PLUGIN}"].read_text() == "official"
    assert "random_plugin" in found[f"resource-random-v{recipes.RANDOM_PLUGIN}"].read_text()


def test_in_a_shell_that_uses_the_sandboxs_home_the_stand_ins_stay(place: Paths, tmp_path: Path) -> None:
    installed(place, tmp_path / "home")
    pluginhome.install(place, tmp_path / "home" / "built", place.pulumi_home)
    script = place.pulumi_home / "plugins" / f"resource-random-v{recipes.RANDOM_PLUGIN}" / "pulumi-resource-random"
    assert "random_plugin" in script.read_text()


def test_plugins_of_earlier_versions_go(place: Paths, tmp_path: Path) -> None:
    (place.pulumi_home / "plugins" / "resource-random-v9.9.9").mkdir(parents=True)
    assert "resource-random-v9.9.9" not in installed(place, tmp_path / "home")


def test_a_stand_in_prints_its_port_and_ends_when_its_engine_is_gone(place: Paths, tmp_path: Path) -> None:
    script = installed(place, tmp_path / "home")[f"resource-random-v{recipes.RANDOM_PLUGIN}"]
    # The shell is the engine here: it ends as soon as the plugin runs.
    engine = f"'{script}' 127.0.0.1:1 > '{tmp_path}/port' & while ! test -s '{tmp_path}/port'; do sleep 0.1; done; echo $!"
    printed = subprocess.run(["sh", "-c", engine], capture_output=True, text=True, timeout=60, check=True).stdout
    assert 1024 <= int((tmp_path / "port").read_text()) <= 65535
    while processes.started(int(printed)) is not None:
        time.sleep(0.1)
