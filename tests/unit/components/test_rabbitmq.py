"""RabbitMQ: what its promises of safety and of surviving its pod rest on. How the server behaves with it: tests/app/configs."""

from __future__ import annotations

from typing import Any

import pytest

from components import rabbitmq, stateful
from components.rabbitmq import RabbitmqClient
from tests.unit.components import engines

CONFIG = rabbitmq.server_config(512, storage_gib=2).splitlines()


def pod() -> dict[str, Any]:
    return engines.server(engines.graph(engines.rabbitmq()))["spec.template.spec"]


def test_no_plaintext_listener_is_left() -> None:
    assert "listeners.tcp = none" in CONFIG
    assert not [line for line in CONFIG if line.startswith(("management.tcp", "prometheus.tcp", "listeners.tcp.1"))]
    assert "management.ssl.port = 15671" in CONFIG


def test_only_the_management_plugin_runs() -> None:
    assert rabbitmq.PLUGINS == "[rabbitmq_management].\n"  # no port that nobody uses


def test_nobody_logs_in_without_a_name() -> None:
    assert [line for line in CONFIG if line.startswith("auth_mechanisms")] == ["auth_mechanisms.1 = PLAIN", "auth_mechanisms.2 = AMQPLAIN"]


def test_alarms_follow_from_the_pod_s_own_limits() -> None:
    assert f"total_memory_available_override_value = {512 * 1024 * 1024}" in CONFIG
    assert "disk_free_limit.absolute = 204MB" in CONFIG


def test_the_plain_configuration_holds_no_secret() -> None:
    graph = engines.graph(engines.rabbitmq())
    config = graph.one("ConfigMap", "rabbitmq-config")
    assert "default_pass" not in str(config.inputs)
    assert config.secret_paths == ()
    assert graph.one("Secret", "rabbitmq-admin")["stringData"]["admin.conf"].startswith("default_user = admin\ndefault_pass = generated-")


def test_no_secret_is_a_variable() -> None:
    (container,) = pod()["containers"]
    assert "generated-" not in str(container)
    assert not [name for name in rabbitmq.environment() if "COOKIE" in name or "PASS" in name]


def test_the_cookie_is_written_for_its_owner_alone_and_only_the_first_container_sees_the_secret() -> None:
    spec = pod()
    (init,), (main,) = spec["initContainers"], spec["containers"]
    assert str(init["command"]).count("umask 077") == 1
    assert {m["mountPath"] for m in init["volumeMounts"]} == {rabbitmq.COOKIE_DIR, rabbitmq.DATA}
    assert rabbitmq.COOKIE_DIR not in str(main["volumeMounts"])


def test_the_node_s_name_does_not_depend_on_its_pod() -> None:
    assert rabbitmq.environment()["RABBITMQ_NODENAME"] == "rabbit@localhost"


def test_the_cluster_s_own_ports_are_bound_to_loopback() -> None:
    environment = rabbitmq.environment()
    assert environment["ERL_EPMD_ADDRESS"] == "127.0.0.1"
    assert "inet_dist_use_interface {127,0,0,1}" in environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]


def test_no_probe_starts_an_erlang_machine() -> None:
    (container,) = pod()["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "tcpSocket" in str(container[probe])
        assert "exec" not in str(container[probe])


def test_no_path_of_the_configuration_is_missing_in_the_pod() -> None:
    (container,) = pod()["containers"]
    for path in (stateful.TLS, stateful.CA, rabbitmq.CONFIG, rabbitmq.ADMIN_DIR, rabbitmq.DATA, rabbitmq.LOGS, "/tmp"):
        assert f"'mountPath': '{path}'" in str(container["volumeMounts"])


@pytest.mark.parametrize("vhost", ["", "/"])
def test_the_administrator_s_virtual_host_is_refused(vhost: str) -> None:
    with pytest.raises(ValueError, match="is the administrator's: give each client one of its own"):
        engines.rabbitmq(RabbitmqClient("orders", vhost))


def test_two_clients_of_one_virtual_host_are_refused() -> None:
    with pytest.raises(ValueError, match="vhost shared has 2 users"):
        engines.rabbitmq(RabbitmqClient("orders", "shared"), RabbitmqClient("billing", "shared"))
