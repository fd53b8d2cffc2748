"""What others use: the pytest plugin, the simulator as a program, Consul's own variables in the settings."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from groundwork.settings import ConsulSettings, load

REPO = Path(__file__).resolve().parents[3]

USE = """
async def test_a_service_with_the_fixtures(consul_simulator, consul_client):
    consul_simulator.register("user-service", "u1")
    found = await consul_client.health_service("user-service")
    assert [entry.service.id for entry in found.value] == ["u1"]

async def test_another_one_starts_empty(consul_client):
    assert (await consul_client.health_service("user-service")).value == ()
"""


def test_the_fixtures_work_in_another_project(tmp_path: Path) -> None:
    (tmp_path / "test_use.py").write_text(USE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "groundwork.testing.pytest_plugin", "-o", "asyncio_mode=auto", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_simulator_runs_alone_and_says_that_it_is_one() -> None:
    command = [sys.executable, "-m", "groundwork.testing", "--port", "0"]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "a simulator of Consul, not Consul" in line
            with urllib.request.urlopen(f"{line.split()[-1]}/v1/status/leader", timeout=10) as answer:
                assert answer.status == 200
        finally:
            process.terminate()


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a mounted file nor variables."""
    monkeypatch.setenv("PLATFORM_SETTINGS_FILE", str(tmp_path / "absent.json"))
    for name in ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_SSL", "CONSUL_CACERT", "CONSUL_HTTP_TOKEN_FILE", "PLATFORM_CONSUL__ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_settings")
def test_consuls_own_variables_count_where_nothing_else_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(service="a").consul is None
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "consul:8500")
    assert load(service="a").consul == ConsulSettings(address="http://consul:8500")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("CONSUL_CACERT", "/ca.crt")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", "/token")
    assert load(service="a").consul == ConsulSettings(address="https://consul:8500", ca=Path("/ca.crt"), token_file=Path("/token"))
    monkeypatch.setenv("PLATFORM_CONSUL__ADDRESS", "https://elsewhere:8501")
    assert load(service="a").consul == ConsulSettings(address="https://elsewhere:8501")
    assert load(service="a", consul=ConsulSettings(address="http://given")).consul == ConsulSettings(address="http://given")
