"""Which tool is taken from where, and what makes a built one be built again."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from sandbox import images, recipes, toolchain
from sandbox.errors import SandboxError
from sandbox.paths import REPO, Paths
from sandbox.recipes import Command, Recipe
from sandbox.toolchain import Toolchain

GO = "1.26.8"


def recipe(name: str) -> Recipe:
    return next(entry for entry in recipes.ALL if entry.name == name)


def program(folder: Path, name: str, prints: str, code: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{prints}'\nexit {code}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "cache")


@pytest.mark.parametrize("entry", recipes.ALL, ids=lambda entry: entry.name)
def test_every_recipe_has_its_modules_pinned_by_sum(entry: Recipe) -> None:
    module = (entry.folder / "go.mod").read_text()
    assert re.search(rf"^module (groundwork/tools/{entry.name}|\S+/groundwork)$", module, re.MULTILINE)
    if "require" in module:
        assert (entry.folder / "go.sum").stat().st_size > 0
    assert (entry.package == ".") == (entry.folder / "main.go").is_file()


@pytest.mark.parametrize(
    ("name", "module", "version"),
    [
        ("kube", "k8s.io/kubernetes", recipes.KUBERNETES),
        ("kube", "go.etcd.io/etcd/server/v3", recipes.ETCD),
        ("coredns", "github.com/coredns/coredns", recipes.COREDNS),
        ("consul", "github.com/hashicorp/consul", recipes.CONSUL),
        ("kube-router", "github.com/cloudnativelabs/kube-router/v2", recipes.KUBE_ROUTER),
        ("local-path-provisioner", "github.com/rancher/local-path-provisioner", recipes.LOCAL_PATH),
        ("pulumi", "github.com/pulumi/pulumi/pkg/v3", recipes.PULUMI),
        ("pulumi-kubernetes", "github.com/pulumi/pulumi-kubernetes/provider/v4", None),
        ("pulumi-random", "github.com/pulumi/pulumi/sdk/v3", recipes.PULUMI),
        ("pulumi-tls", "github.com/pulumi/pulumi/sdk/v3", recipes.PULUMI),
    ],
)
def test_the_table_says_the_version_that_is_built(name: str, module: str, version: str | None) -> None:
    found = re.search(rf"^(?:require\s+|\s+){re.escape(module)} v(\S+)", (recipe(name).folder / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    if version is not None:
        assert found[1] == version


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("pulumi", recipes.PULUMI),
        ("pulumi-kubernetes", recipes.KUBERNETES_PLUGIN),
        ("pulumi-random", recipes.RANDOM_PLUGIN),
        ("pulumi-tls", recipes.TLS_PLUGIN),
    ],
)
def test_engine_and_plugins_are_those_of_the_locked_packages(package: str, version: str) -> None:
    locked = re.search(rf"^{package}==(\S+)", (REPO / "requirements.txt").read_text(), re.MULTILINE)
    assert locked is not None
    assert locked[1].rstrip("\\").strip() == version


@pytest.mark.parametrize("name", ["pulumi-random", "pulumi-tls"])
def test_a_bridged_plugin_may_import_its_providers_internal_package(name: str) -> None:
    text = (recipe(name).folder / "go.mod").read_text()
    module = re.search(r"^module (\S+)/groundwork$", text, re.MULTILINE)
    assert module is not None
    assert re.search(rf"^\s+{re.escape(module[1])} v", text, re.MULTILINE)


def test_the_bridged_plugins_are_compiled_with_what_the_engine_left_in_the_cache() -> None:
    names = [entry.name for entry in recipes.ALL]
    at = names.index("pulumi")
    assert names[at : at + 3] == ["pulumi", "pulumi-random", "pulumi-tls"]
    tags = {recipe(name).flags[recipe(name).flags.index("-tags") + 1] for name in names[at : at + 3]}
    assert len(tags) == 1


def test_no_recipe_or_image_names_a_processor_architecture() -> None:
    written = [*recipes.RECIPES.glob("*/*.go"), *images.FOLDER.glob("*/*"), Path(recipes.__file__), Path(toolchain.__file__), Path(images.__file__)]
    named = {file.name for file in written if re.search(r"amd64|x86_64|arm64|aarch64|GOARCH", file.read_text())}
    assert named == set()


def test_the_key_is_the_same_for_the_same_inputs() -> None:
    assert toolchain.key(recipe("kube"), GO) == toolchain.key(recipe("kube"), GO)


def test_everything_that_decides_the_bytes_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "go.mod").write_text("module groundwork/tools/x\n")
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    entry = Recipe("x", ".", (Command("x", (), ""),), ("-ldflags", "-s"), 1)
    keys = {toolchain.key(entry, GO), toolchain.key(entry, "1.27.3"), toolchain.key(dataclasses.replace(entry, flags=("-ldflags", "-w")), GO)}
    (tmp_path / "x" / "main.go").write_text("package main\n")
    keys.add(toolchain.key(entry, GO))
    (tmp_path / "x" / "main.go").write_text("package main // changed\n")
    keys.add(toolchain.key(entry, GO))
    assert len(keys) == 5


def test_no_recipe_switches_checksums_off_or_needs_a_c_compiler(place: Paths) -> None:
    environment = Toolchain(place, {"PATH": "", "GOFLAGS": "-mod=vendor"}).go_environment()
    assert environment["CGO_ENABLED"] == "0"
    assert environment["GOFLAGS"] == "-buildvcs=false"
    assert not any(name in environment for name in ("GONOSUMDB", "GONOSUMCHECK", "GOINSECURE", "GOSUMDB", "GONOSUMVERIFY"))


def test_a_tool_on_path_at_the_pinned_version_wins(place: Paths, tmp_path: Path) -> None:
    there = program(tmp_path / "bin", "coredns", f"CoreDNS-{recipes.COREDNS}")
    assert Toolchain(place, {"PATH": str(tmp_path / "bin")}).find(recipe("coredns")) == {"coredns": there}


def test_a_tool_on_path_at_another_version_does_not(place: Paths, tmp_path: Path) -> None:
    program(tmp_path / "bin", "coredns", "CoreDNS-0.0.1")
    assert Toolchain(place, {"PATH": str(tmp_path / "bin")}).find(recipe("coredns")) is None


def test_a_tool_of_several_programs_is_taken_whole_or_not_at_all(place: Paths, tmp_path: Path) -> None:
    for command in recipe("kube").commands[1:]:
        program(tmp_path / "bin", command.name, command.expect)
    assert Toolchain(place, {"PATH": str(tmp_path / "bin")}).find(recipe("kube")) is None
    program(tmp_path / "bin", recipe("kube").commands[0].name, recipe("kube").commands[0].expect)
    assert Toolchain(place, {"PATH": str(tmp_path / "bin")}).find(recipe("kube")) is not None


def test_the_sandboxs_own_links_are_not_taken_for_a_users_tool(place: Paths) -> None:
    program(place.bin, "coredns", f"CoreDNS-{recipes.COREDNS}")
    assert Toolchain(place, {"PATH": str(place.bin)}).find(recipe("coredns")) is None


def test_a_built_tool_is_found_under_its_key_only(place: Paths) -> None:
    chain = Toolchain(place, {"PATH": ""})
    program(place.tools / f"coredns-{toolchain.key(recipe('coredns'), '0')}", "coredns", "")
    assert chain.find(recipe("coredns")) is None
    there = program(place.tools / f"coredns-{toolchain.key(recipe('coredns'), chain.planned_go())}", "coredns", "")
    assert chain.find(recipe("coredns")) == {"coredns": there}


def test_an_unfinished_build_is_no_tool(place: Paths) -> None:
    chain = Toolchain(place, {"PATH": ""})
    program(place.tools / f"coredns-{toolchain.key(recipe('coredns'), chain.planned_go())}.part", "coredns", "")
    assert chain.find(recipe("coredns")) is None


def test_a_tool_that_is_not_there_is_named_with_the_fix(place: Paths) -> None:
    with pytest.raises(SandboxError, match="`kubectl` is not built") as refused:
        Toolchain(place, {"PATH": ""}).command("kubectl")
    assert "make up" in refused.value.fix


@pytest.mark.parametrize(
    ("printed", "numbers"),
    [("go version go1.26.8 linux/amd64", (1, 26, 8)), ("go version go1.27 linux/arm64", (1, 27, 0)), ("command not found", None)],
)
def test_the_version_of_go_is_read_from_its_own_words(printed: str, numbers: tuple[int, ...] | None) -> None:
    assert toolchain.go_version(printed) == numbers


@pytest.mark.parametrize(
    ("printed", "planned"), [("go version go1.26.9 linux/amd64", "1.26.9"), ("go version go1.24.0 linux/amd64", recipes.GO_FROM_PYPI)]
)
def test_a_go_that_is_too_old_gives_way_to_the_one_from_pypi(place: Paths, tmp_path: Path, printed: str, planned: str) -> None:
    program(tmp_path / "bin", "go", printed)
    assert Toolchain(place, {"PATH": str(tmp_path / "bin")}).planned_go() == planned


def test_each_stage_needs_what_the_one_before_needs() -> None:
    node, images, stack = ({entry.name for entry in recipes.needed(stage)} for stage in recipes.STAGES)
    assert node < images < stack
    assert stack == {entry.name for entry in recipes.ALL}
    assert "consul" not in node


def test_path_keeps_the_callers_folders_behind_ours_without_doubles() -> None:
    assert toolchain.environment_path([Path("/ours")], {"PATH": "/usr/bin:/ours:/bin"}) == "/ours:/usr/bin:/bin"
