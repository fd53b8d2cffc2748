"""References to secrets become secrets, follow their rotation and never show."""

from __future__ import annotations

import json
import logging
import secrets as random_secrets
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, SecretStr, ValidationError

from groundwork.backends.consul import ConsulConfig
from groundwork.config.models import ApiGatewayConfig, DatabaseConfig, RedisConfig
from groundwork.config.store import ConfigStore
from groundwork.consul.client import ConsulClient
from groundwork.errors import InvalidConfig
from groundwork.testing.faults import Fault
from groundwork.testing.simulator import Access, ConsulSimulator
from tests.app.config.support import APP, OWN, Limits, Recorder, mounted, store
from tests.app.consul.support import PATIENCE, QUICK, QUICK_LIMITS, until


async def test_a_reference_becomes_a_secret_in_the_model_and_follows_its_rotation(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    folder = mounted(tmp_path / "redis", password="first\n").parent
    consul_simulator.put(OWN + "redis", '{"host": "redis", "password": {"$secret": "redis/password"}}')
    async with store(consul_simulator, secrets_dir=folder) as config:
        redis = config.bind("redis", RedisConfig)
        assert redis.current.password.get_secret_value() == "first"
        assert config.get("redis/password") == {"$secret": "redis/password"}
        assert config.secret("redis/password").get_secret_value() == "first"
        (tmp_path / "redis" / "..2026" / "password").write_text("second!\n")
        await until(lambda: redis.current.password.get_secret_value() == "second!")


async def test_a_mounted_secret_covers_the_back_ends_value(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    mounted(tmp_path / "redis", password="mounted")
    consul_simulator.put(OWN + "redis", '{"host": "redis", "password": "in the open"}')
    async with store(consul_simulator, secrets_dir=tmp_path) as config:
        assert config.bind("redis", RedisConfig).current.password.get_secret_value() == "mounted"


@pytest.mark.parametrize(
    "name", ["absent", "../outside", "/etc/passwd", "link", "", 3], ids=["absent", "up", "absolute", "link-out", "empty", "number"]
)
async def test_a_reference_that_leads_nowhere_or_outside_is_rejected(consul_simulator: ConsulSimulator, tmp_path: Path, name: object) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (tmp_path / "outside").write_text("outside")
    (folder / "link").symlink_to(tmp_path / "outside")
    consul_simulator.put(OWN + "redis", json.dumps({"host": "redis", "password": {"$secret": name}}))
    async with store(consul_simulator, secrets_dir=folder) as config:
        with pytest.raises(InvalidConfig, match="secret"):
            config.bind("redis", RedisConfig)


async def test_a_secret_does_not_fit_into_a_field_that_would_show_it(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    class Careless(BaseModel):
        """Keeps a password as plain text."""

        password: str

    (tmp_path / "password").write_text("s3cret")
    consul_simulator.put(OWN + "x", '{"password": {"$secret": "password"}}')
    async with store(consul_simulator, secrets_dir=tmp_path) as config:
        with pytest.raises(InvalidConfig) as caught:
            config.bind("x", Careless)
    assert "s3cret" not in repr(caught.value)


async def test_r37_a_canary_in_every_secret_shows_nowhere(
    consul_simulator: ConsulSimulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canary = f"canary-{random_secrets.token_hex(16)}"
    caplog.set_level(logging.DEBUG)
    mounted(tmp_path / "database", password=canary)
    token = tmp_path / "token"
    token.write_text(canary)
    consul_simulator.tokens = {canary: Access()}
    file, registry = tmp_path / "state.json", CollectorRegistry()
    consul_simulator.put(OWN + "database", '{"host": "db", "database": "d", "username": "u", "password": {"$secret": "database/password"}}')
    seen: list[object] = []
    settings = consul_simulator.settings.model_copy(update={"token_file": token})
    async with (
        ConsulClient(settings, limits=QUICK_LIMITS, registry=registry) as client,
        ConfigStore(
            ConsulConfig(client), APP, environment={}, secrets_dir=tmp_path, snapshot_file=file, options=QUICK, files_interval=0.01, registry=registry
        ) as config,
    ):
        await config.ready(PATIENCE)
        database, told = config.bind("database", DatabaseConfig), Recorder()
        assert database.current.password.get_secret_value() == canary
        config.subscribe("", told)
        consul_simulator.put(OWN + "database", '{"host": 5, "password": {"$secret": "database/password"}}')
        await until(lambda: bool(config.problems))
        consul_simulator.tokens = {}
        consul_simulator.faults.append(Fault.denied())
        consul_simulator.put(OWN + "database", '{"host": "x", "database": "d", "username": "u", "password": {"$secret": "database/password"}}')
        await until(lambda: config.stale)
        await until(file.exists)
        seen += [
            database.current,
            database.error,
            config.problems,
            config.get("database"),
            told.changes,
            client.settings,
            vars(config),
            vars(database),
        ]
    try:
        RedisConfig.model_validate({"host": "h", "password": SecretStr(canary), "port": canary[:3]})
    except ValidationError as error:
        seen.append(str(error))
    everything = "\n".join(map(repr, seen)) + caplog.text + generate_latest(registry).decode() + file.read_text()
    assert len(everything) > 1000
    assert canary not in everything


def test_no_section_has_a_password_by_default() -> None:
    for model in (DatabaseConfig, RedisConfig):
        assert model.model_fields["password"].is_required()
        assert model.model_fields["password"].annotation is SecretStr
        assert model.model_fields["host"].is_required(), "an outage must not lead to some other server"
    assert ApiGatewayConfig(host="gateway").rate_limit.requests_per_minute == 100


async def test_reading_costs_no_request(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "limits", '{"requests": 1}')
    async with store(consul_simulator) as config:
        limits = config.bind("limits", Limits)
        await consul_simulator.blocked(2)
        asked = len(consul_simulator.requests)
        for _ in range(10_000):
            assert limits.current.requests == 1
        assert len(consul_simulator.requests) == asked
