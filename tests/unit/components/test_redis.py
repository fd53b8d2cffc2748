"""Redis: the access list and the configuration are what its promises rest on. How the server behaves with them: tests/app/configs."""

from __future__ import annotations

import pytest

from components import redis, stateful
from components.redis import RedisClient
from tests.unit.components import engines

ORDERS = RedisClient("orders", keys=("orders:*",), channels=("orders.events",))
BILLING = RedisClient("billing", keys=("z:*", "a:*"))
PASSWORDS = {"orders": "s3cret-of-orders", "billing": "s3cret-of-billing"}


def test_only_the_encrypted_port_is_open() -> None:
    config = redis.server_config(128).splitlines()
    assert "port 0" in config
    assert "tls-port 6379" in config


def test_three_quarters_of_the_memory_are_for_data() -> None:
    assert "maxmemory 96mb" in redis.server_config(128).splitlines()


def test_a_client_reaches_its_own_keys_and_channels_only() -> None:
    (line,) = [user for user in redis.access_list((ORDERS, BILLING), PASSWORDS).splitlines() if " orders " in user]
    assert "resetkeys ~orders:* resetchannels &orders.events +@all -@admin -@dangerous" in line


def test_a_client_without_channels_has_none() -> None:
    (line,) = [user for user in redis.access_list((ORDERS, BILLING), PASSWORDS).splitlines() if " billing " in user]
    assert "resetchannels +@all" in line
    assert "&" not in line


def test_nobody_is_let_in_by_default_and_the_probe_may_only_ping() -> None:
    users = redis.access_list((), {}).splitlines()
    assert users == ["user default off", "user probe on nopass +ping"]


def test_passwords_stand_as_hashes_only() -> None:
    users = redis.access_list((ORDERS, BILLING), PASSWORDS)
    assert "s3cret" not in users
    assert users.count(" on #") == 2


def test_the_order_of_clients_and_patterns_does_not_matter() -> None:
    turned = RedisClient("billing", keys=("a:*", "z:*"))
    assert redis.access_list((ORDERS, BILLING), PASSWORDS) == redis.access_list((turned, ORDERS), PASSWORDS)


def test_the_access_list_lies_in_a_secret_and_nowhere_else() -> None:
    graph = engines.graph(engines.redis())
    assert set(graph.one("Secret", "redis-config")["stringData"]) == {"redis.conf", "users.acl"}
    assert graph.of_type("ConfigMap") == []


def test_a_rotation_rolls_the_server() -> None:
    def content(rotation: int) -> str:
        return str(engines.server(engines.graph(engines.redis(rotation=rotation)))["spec.template.metadata.annotations"])

    assert content(1) != content(2)


def test_ready_wants_the_answer_and_not_the_exit_code() -> None:
    container = engines.server(engines.graph(engines.redis()))["spec.template.spec.containers.0"]
    assert container["readinessProbe"]["exec"]["command"] == ["sh", "-c", redis.PROBE]
    assert redis.PROBE.endswith("| grep -q PONG")


def test_no_path_of_the_configuration_is_missing_in_the_pod() -> None:
    container = engines.server(engines.graph(engines.redis()))["spec.template.spec.containers.0"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {stateful.TLS, stateful.CA, redis.CONFIG, redis.DATA, "/tmp"} <= mounted


@pytest.mark.parametrize("keys", [(), ("",), ("orders: x",), ("*",), ("*:orders",)], ids=["none", "empty", "space", "all", "suffix"])
def test_keys_that_would_not_separate_the_client_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"redis\.clients: orders has "):
        engines.redis(RedisClient("orders", keys))
