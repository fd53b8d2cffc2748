"""The commands as a whole, as far as they need no node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import __main__ as cli
from sandbox import up
from sandbox.errors import SandboxError
from sandbox.paths import Paths
from sandbox.progress import Progress
from sandbox.up import Request


@pytest.fixture
def sandbox(tmp_path: Path) -> up.Sandbox:
    place = Paths(tmp_path / "cache")
    return up.assemble(place, Progress(place.logs, list[str]().append))


def test_a_folder_goes_and_what_it_links_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    gone = tmp_path / "gone"
    (gone / "deep").mkdir(parents=True)
    (gone / "link").symlink_to(tmp_path / "kept")
    up.remove(gone)
    up.remove(tmp_path / "never-there")
    assert not gone.exists()
    assert (tmp_path / "kept" / "file").exists()


def test_a_link_is_removed_itself(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    up.remove(tmp_path / "link")
    assert (tmp_path / "kept").is_dir()


def test_the_stack_alone_needs_a_node_that_is_up(sandbox: up.Sandbox) -> None:
    with pytest.raises(SandboxError, match="the node is not running") as refused:
        up.need_node(sandbox)
    assert refused.value.fix == "run `make up`"


def test_a_preview_starts_no_engine_without_a_node(sandbox: up.Sandbox) -> None:
    with pytest.raises(SandboxError, match="the node is not running"):
        up.preview(sandbox, Request(), expect_no_changes=True)
    assert not sandbox.paths.pulumi.exists()


def test_a_stack_that_is_not_there_is_not_destroyed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    place = Paths(tmp_path / "cache")
    (tmp_path / "bin").mkdir()
    pulumi = tmp_path / "bin" / "pulumi"
    pulumi.write_text("#!/bin/sh\necho v3.259.0\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    up.destroy(up.assemble(place, Progress(place.logs, said.append)), Request(stack="sandbox-e2e"))
    assert said == ["there is no stack sandbox-e2e"]


def test_the_command_line_becomes_a_request() -> None:
    words = cli.parser().parse_args(["up", "--stack", "sandbox-e2e", "--namespace", "n", "--set", "rotation=2", "--set", "redis.storage_gib=3"])
    assert cli.request(words) == Request(stack="sandbox-e2e", namespace="n", overrides={"rotation": 2, "redis.storage_gib": 3})


def test_up_alone_is_everything_on_the_users_own_stack() -> None:
    assert cli.request(cli.parser().parse_args(["up"])) == Request(only=None, stack="sandbox", take_over=False)


@pytest.mark.parametrize("command", ["up", "preview", "destroy"])
@pytest.mark.parametrize("stack", ["dev", "prod", "my-sandbox"])
def test_a_stack_of_the_users_own_is_refused_before_anything_is_done_for_it(command: str, stack: str) -> None:
    with pytest.raises(SandboxError, match=f"stack `{stack}` is none of the sandbox's"):
        cli.request(cli.parser().parse_args([command, "--stack", stack]))


def test_status_of_a_sandbox_that_is_down_says_how_to_start_it(sandbox: up.Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.show_status(sandbox) == 1
    assert "`make up` starts it" in capsys.readouterr().out


def ignore_the_machines_own(_: Paths) -> None:
    """The machine that runs the tests may have a sandbox."""


@pytest.mark.parametrize("command", [up.down, up.clean])
def test_where_there_is_no_sandbox_nothing_is_stopped_or_removed(
    command: Callable[[up.Sandbox], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    place = Paths(tmp_path / "cache")
    monkeypatch.setattr("sandbox.up.os.geteuid", lambda: 0)
    monkeypatch.setattr("sandbox.lock.refuse_other_place", ignore_the_machines_own)
    command(up.assemble(place, Progress(place.logs, said.append)))
    assert said == [f"there is no sandbox in {place.root}"]
    assert not place.root.exists()


def test_only_root_stops_a_sandbox(sandbox: up.Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.up.os.geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="not root"):
        up.down(sandbox)
