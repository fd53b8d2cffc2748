"""Redis: the access list and the configuration are what its promises rest on. How the server behaves with them: tests/app/configs."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from components import redis
from components.lib import stateful
from components.redis import RedisClient
from tests.unit.components import samples

ORDERS = RedisClient("orders", keys=("orders:*",), channels=("orders.events",))
BILLING = RedisClient("billing", keys=("z:*", "a:*"))


def test_only_the_encrypted_port_is_open() -> None:
    config = redis.server_config(128).splitlines()
    assert [line for line in config if line.startswith(("port", "tls-port", "unixsocket"))] == ["port 0", "tls-port 6379"]


def test_three_quarters_of_the_memory_are_for_data() -> None:
    assert "maxmemory 96mb" in redis.server_config(128).splitlines()


def words(client: RedisClient) -> list[str]:
    """A client's rules, one by one, as the accounts program reads them."""
    (account,) = samples.accounts(samples.graph(samples.redis(client)), "redis")["clients"]
    return account["rules"]


def test_tls_is_1_2_or_newer() -> None:
    assert 'tls-protocols "TLSv1.2 TLSv1.3"' in redis.server_config(128).splitlines()


def test_other_machines_are_refused_while_anybody_may_come_in() -> None:
    assert "protected-mode yes" in redis.server_config(128).splitlines()


def test_a_client_reaches_its_own_keys_and_channels_only() -> None:
    assert [word for word in words(ORDERS) if word[0] in "~&%"] == ["~orders:*", "&orders.events"]


def test_a_client_without_channels_has_none() -> None:
    assert [word for word in words(BILLING) if word[0] == "&"] == []
    assert "acl-pubsub-default resetchannels" in redis.server_config(128).splitlines()


def test_a_client_may_not_administer_and_has_no_way_in_without_its_password() -> None:
    granted = words(ORDERS)
    assert {"-@admin", "-@dangerous"} <= set(granted)
    assert granted[[word[0] for word in granted].index("-")] == "-@all"  # the first word about commands: what is not named is closed
    assert not {"nopass", "allkeys", "allchannels", "~*", "&*"} & set(granted)


def test_a_client_sees_no_names_of_other_keys_and_touches_no_functions() -> None:
    granted = words(ORDERS)
    assert {"-scan", "-randomkey", "-dbsize", "-select", "-function", "-fcall", "-fcall_ro"} <= set(granted)
    assert not [word for word in granted if word.startswith("+") and not word.startswith("+@") and word != "+time"]


def test_the_order_of_patterns_does_not_matter() -> None:
    assert words(BILLING) == words(RedisClient("billing", keys=("a:*", "z:*")))


def test_nobody_is_let_in_by_default_and_the_probe_may_only_ping() -> None:
    users = redis.base_access_list("s3cret-of-the-administrator").splitlines()
    assert [user for user in users if " admin " not in user] == ["user default off", "user probe on nopass +ping"]


def test_the_administrator_s_password_stands_as_a_hash_only() -> None:
    users = redis.base_access_list("s3cret-of-the-administrator")
    (admin,) = [user for user in users.splitlines() if user.startswith("user admin ")]
    assert f" on #{sha256(b's3cret-of-the-administrator').hexdigest()} " in admin
    assert "s3cret" not in users


def test_the_access_list_lies_on_the_volume_where_a_restart_finds_what_was_added() -> None:
    assert "aclfile /data/users.acl" in redis.server_config(128).splitlines()
    assert {"name": "data", "mountPath": "/data"} in samples.main(samples.graph(samples.redis()))["volumeMounts"]


def test_its_base_is_put_right_before_each_start() -> None:
    (init,) = samples.pod(samples.graph(samples.redis()))["initContainers"]
    assert init["command"] == ["sh", "-c", redis.prepare_access_list()]
    assert {m["mountPath"] for m in init["volumeMounts"]} == {"/data", redis.BASE_DIR}
    assert redis.BASE_DIR not in str(samples.main(samples.graph(samples.redis()))["volumeMounts"])


def prepared(folder: Path, there: str | None) -> list[str]:
    """The access list after the init container's command, on a volume where `there` is the one so far."""
    (folder / redis.BASE_FILE).write_text(redis.base_access_list("a-new-password"))
    if there is not None:
        (folder / "users.acl").write_text(there)
    script = redis.prepare_access_list().replace(redis.BASE_DIR, str(folder)).replace(redis.ACCESS_LIST, str(folder / "users.acl"))
    subprocess.run(["sh", "-c", script], check=True, timeout=30)
    assert (folder / "users.acl").stat().st_mode & 0o077 == 0
    return (folder / "users.acl").read_text().splitlines()


def test_a_new_volume_has_the_base_alone(tmp_path: Path) -> None:
    assert prepared(tmp_path, None) == redis.base_access_list("a-new-password").splitlines()


def test_a_volume_with_clients_keeps_them_and_nothing_of_the_base_before(tmp_path: Path) -> None:
    opened = "user default on nopass ~* +@all\nuser admin on #old +@all\nuser probe on nopass +@all\n"
    clients = ["user administrator.1 on #a ~administrator:* +get", "user orders.1 on #b ~orders:* +get"]
    assert prepared(tmp_path, opened + "\n".join(clients) + "\n") == [*redis.base_access_list("a-new-password").splitlines(), *clients]


def test_the_base_of_the_access_list_is_the_job_s_administrator_s() -> None:
    graph = samples.graph(samples.redis())
    admin = graph.one("Secret", "redis-accounts")["stringData"]["admin"]
    assert graph.one("Secret", "redis-secrets")["stringData"]["base.acl"] == redis.base_access_list(admin)


def test_the_plain_configuration_holds_no_secret() -> None:
    config = samples.graph(samples.redis()).one("ConfigMap", "redis-config")
    assert set(config["data"]) == {"redis.conf"}
    assert config.secret_paths == ()


def test_ready_wants_the_answer_and_not_the_exit_code() -> None:
    container = samples.main(samples.graph(samples.redis()))
    assert container["readinessProbe"]["exec"]["command"] == ["sh", "-c", redis.PROBE]
    assert redis.PROBE.endswith("| grep -q PONG")


def test_no_path_of_the_configuration_is_missing_in_the_pod() -> None:
    container = samples.main(samples.graph(samples.redis()))
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {stateful.TLS, stateful.CA, redis.CONFIG, redis.DATA, "/tmp"} <= mounted


@pytest.mark.parametrize(
    "keys",
    [(), ("",), ("orders: x",), ("*",), ("*:orders",), ("?rders:*",), ("[a-z]*",)],
    ids=["none", "empty", "space", "all", "suffix", "any character", "any of them"],
)
def test_keys_that_would_not_separate_the_client_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"redis\.clients: orders has "):
        samples.redis(RedisClient("orders", keys))
