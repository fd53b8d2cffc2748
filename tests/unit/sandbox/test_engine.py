"""What the sandbox reads from the engine's state, and how it deals with an engine that was killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandbox.engine import Engine
from sandbox.errors import SandboxError
from sandbox.paths import Paths

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:abc"}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(Paths(tmp_path), "sandbox", Path("pulumi"))


def state(engine: Engine, **latest: object) -> None:
    engine.checkpoint.parent.mkdir(parents=True)
    engine.checkpoint.write_text(json.dumps({"version": 3, "checkpoint": {"latest": latest}}))


def test_outputs_are_read_without_the_secret_ones(engine: Engine) -> None:
    state(engine, resources=[{"type": "pulumi:pulumi:Stack", "outputs": {"namespace": "groundwork-sandbox", "token": SECRET}}])
    assert engine.outputs() == {"namespace": "groundwork-sandbox"}


def test_a_stack_that_is_not_there_has_no_outputs_and_no_open_ends(engine: Engine) -> None:
    assert engine.outputs() == {}
    assert not engine.interrupted()


def test_an_update_that_was_cut_off_names_the_objects_it_was_making(engine: Engine) -> None:
    metadata = {"name": "redis", "namespace": "groundwork-sandbox"}
    resource = {
        "type": "kubernetes:apps/v1:StatefulSet",
        "inputs": {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": {}},
    }
    password = {"type": "random:index/randomPassword:RandomPassword", "inputs": {"length": 32}}
    pending = [{"type": "creating", "resource": resource}, {"type": "creating", "resource": password}, {"type": "updating", "resource": resource}]
    state(engine, resources=[], pending_operations=pending)
    assert engine.interrupted()
    assert engine.unfinished() == ({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata},)


def lock(engine: Engine, pid: int) -> Path:
    file = engine.paths.pulumi_backend / ".pulumi" / "locks" / "organization" / "groundwork" / "sandbox" / "1.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"pid": pid}))
    return file


def test_the_lock_of_an_engine_that_is_gone_is_freed(engine: Engine) -> None:
    file = lock(engine, pid=2**22 + 1)
    engine.unlock()
    assert not file.exists()


def test_a_process_that_is_no_engine_holds_no_lock(engine: Engine) -> None:
    file = lock(engine, pid=os.getpid())
    engine.unlock()
    assert not file.exists()


def test_an_engine_at_work_keeps_its_lock(engine: Engine, tmp_path: Path) -> None:
    program = tmp_path / "pulumi"
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    reader, writer = os.pipe()
    pid = os.posix_spawn(program, [str(program)], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
    try:
        file = lock(engine, pid=pid)
        while "pulumi" not in Path(f"/proc/{pid}/cmdline").read_text():
            pass
        with pytest.raises(SandboxError, match="at work on stack `sandbox`"):
            engine.unlock()
        assert file.exists()
    finally:
        os.close(writer)
        os.waitpid(pid, 0)
        os.close(reader)
