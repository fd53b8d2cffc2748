"""Live configuration: layers, typed models that are swapped whole, callbacks that cannot hurt each other, secrets that never show."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets as random_secrets
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from groundwork.backends.consul import ConsulConfig
from groundwork.backends.memory import MemoryConfig, MemoryStore
from groundwork.config.codec import Json, decode
from groundwork.config.layers import prefixes
from groundwork.config.models import ApiGatewayConfig, DatabaseConfig, RedisConfig
from groundwork.config.store import ConfigStore
from groundwork.config.subscription import ChangeKind, ConfigChange
from groundwork.consul.client import ConsulClient
from groundwork.consul.txn import KvSet
from groundwork.errors import Conflict, DeadlineExceeded, InvalidConfig, InvalidRequest, NotFound, PayloadTooLarge, PermissionDenied
from groundwork.testing.faults import Fault
from groundwork.testing.simulator import Access, ConsulSimulator
from tests.app.consul.support import PATIENCE, QUICK, QUICK_LIMITS, until

APP = "user-service"
OWN = f"config/{APP}/"


class Limits(BaseModel):
    """A model as a service would write it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = 10
    burst: int = 5


@asynccontextmanager
async def store(
    simulator: ConsulSimulator,
    *,
    profile: str = "",
    defaults: Mapping[str, Json] | None = None,
    environment: Mapping[str, str] | None = None,
    files: Path | None = None,
    secrets_dir: Path | None = None,
    snapshot_file: Path | None = None,
    registry: CollectorRegistry | None = None,
    ready: bool = True,
    callback_timeout: float = 5.0,
) -> AsyncGenerator[ConfigStore]:
    """A store on the simulator."""
    registry = registry or CollectorRegistry()
    async with (
        ConsulClient(simulator.settings, limits=QUICK_LIMITS, registry=registry) as client,
        ConfigStore(
            ConsulConfig(client),
            APP,
            profile,
            defaults=defaults,
            environment=environment or {},
            files=files,
            secrets_dir=secrets_dir,
            snapshot_file=snapshot_file,
            options=QUICK,
            callback_timeout=callback_timeout,
            files_interval=0.01,
            registry=registry,
        ) as config,
    ):
        if ready:
            await config.ready(PATIENCE)
        yield config


class Recorder:
    """A callback that writes down what it is told."""

    def __init__(self) -> None:
        self.changes: list[ConfigChange] = []

    async def __call__(self, change: ConfigChange) -> None:
        self.changes.append(change)

    @property
    def news(self) -> list[Json]:
        """The new values."""
        return [change.new for change in self.changes]


# Layers


def test_the_trees_are_those_of_spring_general_ones_first() -> None:
    assert prefixes("config/", APP, "prod") == ("config/application/", "config/application,prod/", f"config/{APP}/", f"config/{APP},prod/")
    assert prefixes("config/", APP, "") == ("config/application/", f"config/{APP}/")


@pytest.mark.parametrize(
    ("root", "app", "profile"), [("config", APP, ""), ("/", APP, ""), ("a/../", APP, ""), ("c/", "a/b", ""), ("c/", APP, "../x")]
)
def test_a_tree_cannot_lie_outside_of_its_root(root: str, app: str, profile: str) -> None:
    with pytest.raises(InvalidRequest):
        prefixes(root, app, profile)


async def test_each_layer_covers_the_ones_below(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    names = ("default", "general", "general-prod", "own", "own-prod", "file", "env")
    defaults: dict[str, Json] = dict.fromkeys(names, "default")
    for at, tree in enumerate(("application", "application,prod", APP, f"{APP},prod"), start=1):
        for name in names[at:]:
            consul_simulator.put(f"config/{tree}/{name}", json.dumps(names[at]))
    for name in names[5:]:
        (tmp_path / name).write_text('"file"')
    async with store(consul_simulator, profile="prod", defaults=defaults, files=tmp_path, environment={"PLATFORM_CONFIG__ENV": "env"}) as config:
        assert {name: config.get(name) for name in names} == {name: name for name in names}


async def test_objects_are_merged_key_by_key_and_a_longer_key_says_more(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put("config/application/limits", '{"requests": 1, "burst": {"a": 1, "b": 1}}')
    consul_simulator.put(OWN + "limits", '{"burst": {"b": 2, "c": 2}}')
    consul_simulator.put(OWN + "limits/burst/c", "3")
    async with store(consul_simulator) as config:
        assert config.get("limits") == {"requests": 1, "burst": {"a": 1, "b": 2, "c": 3}}
        assert config.get("limits/burst/c") == 3


async def test_what_covers_is_removed_and_what_was_below_shows_again(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put("config/application/a", "1")
    consul_simulator.put(OWN + "a", "2")
    async with store(consul_simulator) as config:
        assert config.get("a") == 2
        consul_simulator.delete(OWN + "a")
        await until(lambda: config.get("a") == 1)


async def test_r34_a_prefix_that_begins_another_is_another(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(f"config/{APP}/a", "1")
    consul_simulator.put(f"config/{APP}-2/a", "2")
    consul_simulator.put(f"config/{APP}/config/{APP}/a", "3")
    async with store(consul_simulator) as config:
        assert config.get("a") == 1
        assert config.get(f"config/{APP}/a") == 3
        consul_simulator.put(f"config/{APP}-2/a", "4")
        consul_simulator.put(f"config/{APP}/b", "5")
        await until(lambda: config.get("b", None) == 5)
        assert config.get("a") == 1


async def test_mounted_files_are_read_again_when_they_change(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text('{"requests": 1}')
    (tmp_path / "limits.burst").write_text("7")
    async with store(consul_simulator, files=tmp_path) as config:
        assert config.get("limits") == {"requests": 1, "burst": 7}
        new = tmp_path / ".new"
        new.write_text('{"requests": 2}')
        new.replace(tmp_path / "limits.json")
        await until(lambda: config.get("limits/requests") == 2)


async def test_an_absent_key_is_an_error_unless_a_default_is_given(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        with pytest.raises(NotFound, match=f"config/{APP}/absent"):
            config.get("absent")
        assert config.get("absent", None) is None
        asked = len(consul_simulator.requests)
        for _ in range(100):
            config.get("absent", 0)
        assert len(consul_simulator.requests) == asked, "absence is known from memory"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", "ä", ".a", "a/.b", "a" * 257, "a\x00"])
async def test_a_key_that_is_none_is_refused(consul_simulator: ConsulSimulator, key: str) -> None:
    async with store(consul_simulator) as config:
        with pytest.raises(InvalidRequest):
            config.get(key)
        with pytest.raises(InvalidRequest):
            await config.put(key, 1)


# Typed models


async def test_a_model_is_swapped_whole(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "limits", '{"requests": 1, "burst": 2}')
    async with store(consul_simulator) as config:
        limits = config.bind("limits", Limits)
        held = limits.current
        assert held == Limits(requests=1, burst=2)
        consul_simulator.put(OWN + "limits", '{"requests": 3, "burst": 4}')
        await until(lambda: limits.current == Limits(requests=3, burst=4))
        assert held == Limits(requests=1, burst=2), "what a request holds does not change under it"


async def test_an_absent_section_has_the_models_defaults_and_required_fields_are_missed_at_once(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        assert config.bind("limits", Limits).current == Limits()
        with pytest.raises(InvalidConfig, match="database/host"):
            config.bind("database", DatabaseConfig)


BAD = {
    "json": b"{",
    "yaml": b"a: 1",
    "empty": b"",
    "type": b'{"requests": "many"}',
    "unknown field": b'{"requests": 1, "tpyo": 2}',
    "list": b"[1]",
    "nul": b'{"requests": 1}\x00',
    "utf-16": '{"requests": 1}'.encode("utf-16"),
    "latin-1": '{"requests": "ä"}'.encode("latin-1"),
    "twice": b'{"requests": 1, "requests": 2}',
    "deep": b'{"requests":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "nan": b'{"requests": NaN}',
    "infinity": b'{"requests": Infinity}',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_r31_a_bad_value_never_replaces_a_good_one(consul_simulator: ConsulSimulator, bad: bytes) -> None:
    consul_simulator.put(OWN + "limits", '{"requests": 1}')
    registry = CollectorRegistry()
    async with store(consul_simulator, registry=registry) as config:
        limits, told = config.bind("limits", Limits), Recorder()
        config.subscribe("limits", told)
        consul_simulator.put(OWN + "limits", bad)
        consul_simulator.put(OWN + "other", "1")
        await until(lambda: config.get("other", None) == 1)
        assert limits.current == Limits(requests=1)
        assert config.get("limits") == {"requests": 1}
        assert len(config.problems) == 1
        assert registry.get_sample_value("config_rejected_total", {"key": "limits"}) == 1
        consul_simulator.put(OWN + "limits", '{"requests": 2}')
        await until(lambda: limits.current == Limits(requests=2))
        assert config.problems == {}
        await until(lambda: told.news == [{"requests": 2}])


async def test_r31_one_bad_key_does_not_hide_the_others(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.put(OWN + "b", "not json")
    consul_simulator.put(OWN + "folder/", "")
    consul_simulator.put(OWN + "c", "3")
    async with store(consul_simulator) as config:
        assert (config.get("a"), config.get("b", None), config.get("c")) == (1, None, 3)
        assert list(config.problems) == [OWN + "b"]


async def test_r31_a_value_above_the_limit_is_refused_before_it_is_sent(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        asked = len(consul_simulator.requests)
        with pytest.raises(PayloadTooLarge):
            await config.put("a", "x" * (512 * 1024 - 1))
        assert len([request for request in consul_simulator.requests[asked:] if request.method == "PUT"]) == 0
        await config.put("a", "x" * (512 * 1024 - 2))


def test_strict_json_says_where_it_is_wrong_and_never_what_stands_there() -> None:
    with pytest.raises(InvalidConfig, match="line 1 column") as caught:
        decode(b'{"password": "hunter2",}')
    assert "hunter2" not in str(caught.value)


async def test_r33_keys_changed_in_one_transaction_are_seen_together(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "limits/requests", "0")
    consul_simulator.put(OWN + "limits/burst", "0")
    async with store(consul_simulator) as config, ConsulClient(consul_simulator.settings, registry=CollectorRegistry()) as writer:
        limits = config.bind("limits", Limits)
        torn: list[Limits] = []

        async def look(change: ConfigChange) -> None:
            if limits.current.requests != limits.current.burst:
                torn.append(limits.current)

        config.subscribe("limits", look)
        for number in range(1, 50):
            await writer.txn([KvSet(OWN + "limits/requests", str(number).encode()), KvSet(OWN + "limits/burst", str(number).encode())])
            if limits.current.requests != limits.current.burst:
                torn.append(limits.current)
        await until(lambda: limits.current == Limits(requests=49, burst=49))
        assert torn == []


# Callbacks


async def test_a_callback_hears_of_changes_of_its_key_only_with_old_and_new(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator) as config:
        told, everything = Recorder(), Recorder()
        config.subscribe("a", told)
        config.subscribe("", everything)
        consul_simulator.put(OWN + "b", "1")
        await until(lambda: len(everything.changes) == 1)
        consul_simulator.put(OWN + "a", "true")  # not the same as 1, though Python thinks so
        await until(lambda: len(told.changes) == 1)
        consul_simulator.delete(OWN + "a")
        await until(lambda: len(told.changes) == 2)
        consul_simulator.put(OWN + "a", "1")
        await until(lambda: len(told.changes) == 3)
    kinds = [(change.kind, change.old, change.new) for change in told.changes]
    assert kinds == [(ChangeKind.UPDATED, 1, True), (ChangeKind.DELETED, True, None), (ChangeKind.CREATED, None, 1)]
    assert [change.key for change in told.changes] == ["a"] * 3
    indexes = [change.index for change in told.changes]
    assert indexes == sorted(indexes)


async def test_r15_sync_async_raising_cancelling_and_hanging_callbacks_do_not_disturb_each_other(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "0")
    registry = CollectorRegistry()
    release = threading.Event()
    calls: list[str] = []
    threads: set[int] = set()
    async with store(consul_simulator, registry=registry, callback_timeout=0.2) as config:
        told = Recorder()

        async def raises(change: ConfigChange) -> None:
            calls.append("raises")
            raise ZeroDivisionError

        async def cancels(change: ConfigChange) -> None:
            calls.append("cancels")
            raise asyncio.CancelledError

        async def hangs(change: ConfigChange) -> None:
            calls.append("hangs")
            await asyncio.Event().wait()

        def blocks(change: ConfigChange) -> None:
            calls.append("blocks")
            threads.add(threading.get_ident())
            release.wait(PATIENCE)

        def sync(change: ConfigChange) -> None:
            calls.append("sync")

        def sync_raises(change: ConfigChange) -> None:
            calls.append("sync raises")
            raise SystemExit

        for callback in (raises, cancels, hangs, blocks, sync, sync_raises, told):
            config.subscribe("a", callback)
        for number in (1, 2, 3):
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: told.news[-1:] == [number])
            await until(lambda number=number: calls.count("sync") == number)
        await until(lambda: calls.count("raises") == calls.count("cancels") == calls.count("sync raises") == 3)
        await until(lambda: registry.get_sample_value("config_callback_failures_total", {"reason": "timeout"}) is not None)
        assert calls.count("blocks") == 1, "no second thread beside one that hangs"
        release.set()
        await until(lambda: calls.count("blocks") >= 2)
    reasons = {
        reason: registry.get_sample_value("config_callback_failures_total", {"reason": reason}) for reason in ("ZeroDivisionError", "CancelledError")
    }
    assert reasons == {"ZeroDivisionError": 3, "CancelledError": 3}


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_r15_a_callback_may_end_its_own_subscription(consul_simulator: ConsulSimulator, sync: bool) -> None:
    consul_simulator.put(OWN + "a", "0")
    async with store(consul_simulator) as config:
        calls: list[Json] = []
        told = Recorder()

        async def once(change: ConfigChange) -> None:
            calls.append(change.new)
            subscription.close()

        def once_sync(change: ConfigChange) -> None:
            calls.append(change.new)
            subscription.close()

        subscription = config.subscribe("a", once_sync if sync else once)
        config.subscribe("a", told)
        for number in (1, 2):
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: told.news[-1:] == [number] and bool(calls))
        assert calls == [1]


async def test_r14_a_slow_callback_misses_states_in_between_and_gets_the_last(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "0")
    gate = asyncio.Event()
    async with store(consul_simulator) as config:
        slow, quick = Recorder(), Recorder()

        async def wait(change: ConfigChange) -> None:
            await slow(change)
            await gate.wait()

        config.subscribe("a", wait)
        config.subscribe("a", quick)
        for number in range(1, 10):
            consul_simulator.put(OWN + "a", str(number))
            await until(lambda number=number: quick.news[-1:] == [number])
        gate.set()
        await until(lambda: slow.news[-1:] == [9])
        assert slow.news[0] == 1
        assert len(slow.news) == 2
        assert (slow.changes[1].old, slow.changes[1].new) == (1, 9)


async def test_a_closed_subscription_is_not_called_again(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "0")
    async with store(consul_simulator) as config:
        told, other = Recorder(), Recorder()
        subscription = config.subscribe("a", told)
        config.subscribe("a", other)
        subscription.close()
        consul_simulator.put(OWN + "a", "1")
        await until(lambda: other.news == [1])
    assert told.changes == []


# Writing


async def test_writes_go_to_the_services_own_tree_with_cas(consul_simulator: ConsulSimulator) -> None:
    async with store(consul_simulator) as config:
        written = await config.put("limits", {"requests": 1}, cas=0)
        assert consul_simulator.store.tables.keys[OWN + "limits"].value == b'{"requests":1}'
        with pytest.raises(Conflict):
            await config.put("limits", {"requests": 2}, cas=0)
        await config.put("limits", {"requests": 2}, cas=written.modify_index)
        with pytest.raises(Conflict):
            await config.delete("limits", cas=written.modify_index)
        await until(lambda: config.get("limits", None) == {"requests": 2})
        await config.delete("limits")
        await until(lambda: config.get("limits", None) is None)


async def test_most_services_may_only_read(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.tokens = {"": Access(key_write=())}
    async with store(consul_simulator) as config:
        with pytest.raises(PermissionDenied):
            await config.put("limits", 1)


# Outages


async def test_r06_an_outage_keeps_the_values_and_shows_their_age(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator) as config:
        told = Recorder()
        config.subscribe("a", told)
        assert (config.age, config.stale) == (0.0, False)
        await consul_simulator.stop()
        await until(lambda: config.stale and config.age > 0)
        assert config.get("a") == 1
        consul_simulator.put(OWN + "a", "2")
        await consul_simulator.start()
        await until(lambda: config.get("a") == 2 and not config.stale)
        await until(lambda: told.news == [2])


async def test_r07_keys_that_vanish_around_an_election_are_kept(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.put(OWN + "b", "1")
    async with store(consul_simulator) as config:
        told = Recorder()
        config.subscribe("a", told)
        await consul_simulator.blocked(2)
        fault = Fault(path=f"/v1/kv/{OWN}", consistent=False, status=404, body=b"")
        with consul_simulator.fault(fault):
            consul_simulator.put(OWN + "b", "2")
            await until(lambda: fault.hits >= 2)
        await until(lambda: config.get("b") == 2)
        assert told.changes == []


async def test_r05_deleting_the_newest_key_is_seen(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.put(OWN + "b", "1")
    async with store(consul_simulator) as config:
        consul_simulator.delete(OWN + "b")
        await until(lambda: config.get("b", None) is None)
        assert config.get("a") == 1


async def test_a_tree_that_may_not_be_read_is_said_at_the_start(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put(OWN + "a", "1")
    consul_simulator.tokens = {"": Access(key_read=("config/application",))}
    async with store(consul_simulator, ready=False) as config:
        with pytest.raises(PermissionDenied):
            await config.ready(PATIENCE)


async def test_r01_the_last_known_good_file_carries_a_start_without_consul(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    file = tmp_path / "state" / "config.json"
    consul_simulator.put(OWN + "limits", '{"requests": 7}')
    async with store(consul_simulator, snapshot_file=file):
        await until(file.exists)
    assert file.stat().st_mode & 0o077 == 0
    await consul_simulator.stop()
    async with store(consul_simulator, snapshot_file=file, ready=False) as config:
        assert config.bind("limits", Limits).current.requests == 7
        assert config.stale
        with pytest.raises(DeadlineExceeded):
            await config.ready(0.1)
        consul_simulator.put(OWN + "limits", '{"requests": 8}')
        await consul_simulator.start()
        await until(lambda: config.get("limits/requests") == 8)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99, "trees": {}}', b"\xff\xfe"])
async def test_a_last_known_good_file_that_is_broken_is_no_obstacle(consul_simulator: ConsulSimulator, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    consul_simulator.put(OWN + "a", "1")
    async with store(consul_simulator, snapshot_file=file) as config:
        assert config.get("a") == 1


async def test_the_embedded_back_end_feeds_the_same_store() -> None:
    source = MemoryConfig(MemoryStore())
    async with ConfigStore(source, APP, environment={}, options=QUICK, registry=CollectorRegistry()) as config:
        await config.ready(PATIENCE)
        limits = config.bind("limits", Limits)
        await config.put("limits", {"requests": 3})
        await until(lambda: limits.current.requests == 3)


# Secrets


def mounted(folder: Path, **values: str) -> Path:
    """A folder of secrets as Kubernetes mounts them: links into a hidden folder."""
    data = folder / "..2026"
    data.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (data / name).write_text(value)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..2026") / name)
    return folder


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
