"""RabbitMQ: what its promises of safety and of surviving its pod rest on. How the server behaves with it: tests/app/configs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from components import rabbitmq
from components.lib import stateful
from components.rabbitmq import RabbitmqClient
from tests.unit.components import samples

CONFIG = rabbitmq.server_config(512, storage_gib=2).splitlines()


def pod() -> dict[str, Any]:
    return samples.pod(samples.graph(samples.rabbitmq()))


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
    graph = samples.graph(samples.rabbitmq())
    config = graph.one("ConfigMap", "rabbitmq-config")
    assert "default_pass" not in str(config.inputs)
    assert config.secret_paths == ()
    assert graph.one("Secret", "rabbitmq-secrets")["stringData"]["admin.conf"].startswith("default_user = admin\ndefault_pass = generated-")


def test_no_secret_is_a_variable() -> None:
    (container,) = pod()["containers"]
    assert "generated-" not in str(container)
    assert not [name for name in rabbitmq.environment() if "COOKIE" in name or "PASS" in name]


def test_the_cookie_is_written_for_its_owner_alone_and_only_the_first_container_sees_the_secret() -> None:
    spec = pod()
    (init,), (main,) = spec["initContainers"], spec["containers"]
    assert str(init["command"]).count("umask 077") == 1
    assert "umask 077" in str(init["command"]).partition("cp ")[0]
    assert {m["mountPath"] for m in init["volumeMounts"]} == {rabbitmq.COOKIE_DIR, rabbitmq.DATA}
    assert rabbitmq.COOKIE_DIR not in str(main["volumeMounts"])


def test_the_node_is_called_by_a_name_under_which_other_nodes_could_find_it() -> None:
    assert rabbitmq.node("rabbitmq", samples.AT) == "rabbit@$HOSTNAME.rabbitmq-headless.groundwork-dev.svc.cluster.local"
    assert samples.server(samples.graph(samples.rabbitmq()))["spec.serviceName"] == "rabbitmq-headless"


@pytest.mark.parametrize(
    ("old", "written"),
    [
        ((), "NODENAME=rabbit@rabbitmq-0.rabbitmq-headless.groundwork-dev.svc.cluster.local\nUSE_LONGNAME=true\n"),
        (("rabbit@localhost",), "NODENAME=rabbit@localhost\nUSE_LONGNAME=false\n"),
    ],
    ids=["new", "of version 0.1"],
)
def test_a_volume_keeps_the_node_that_its_database_is_filed_under(old: tuple[str, ...], written: str, tmp_path: Path) -> None:
    for node in old:
        (tmp_path / "mnesia" / node).mkdir(parents=True)
    (tmp_path / "cookie").write_text("a-cookie")
    script = rabbitmq.prepare_node("rabbitmq", samples.AT).replace(rabbitmq.DATA, str(tmp_path)).replace(rabbitmq.COOKIE_DIR, str(tmp_path))
    subprocess.run(["sh", "-c", script], check=True, timeout=30, env={"PATH": "/usr/bin:/bin", "HOSTNAME": "rabbitmq-0"})
    assert (tmp_path / "node.env").read_text() == written
    cookie = tmp_path / ".erlang.cookie"
    assert (cookie.read_text(), cookie.stat().st_mode & 0o077) == ("a-cookie", 0)


def test_the_node_s_name_is_read_from_the_volume() -> None:
    assert rabbitmq.environment()["RABBITMQ_CONF_ENV_FILE"] == f"{rabbitmq.DATA}/node.env"
    assert not [name for name in rabbitmq.environment() if name in {"RABBITMQ_NODENAME", "NODENAME", "RABBITMQ_USE_LONGNAME"}]  # they would win


def test_the_cluster_s_own_ports_are_offered_to_nobody() -> None:
    graph = samples.graph(samples.rabbitmq())
    for service in graph.of_type("Service"):
        assert {port["port"] for port in service["spec.ports"]} == {5671, 15671}
    assert {port["containerPort"] for port in samples.main(graph)["ports"]} == {5671, 15671}
    assert {edge.port for edge in samples.describe(samples.rabbitmq()).edges} == {5671, 15671}


def test_tls_is_1_2_or_newer() -> None:
    assert [line for line in CONFIG if "versions" in line] == ["ssl_options.versions.1 = tlsv1.3", "ssl_options.versions.2 = tlsv1.2"]


def test_nobody_called_guest_is_let_in_from_afar() -> None:
    assert not [line for line in CONFIG if line.startswith(("loopback_users", "default_user", "default_pass"))]
    assert rabbitmq.admin_config("x").startswith("default_user = admin\n")  # instead of guest, who is not made then


def test_the_image_s_own_settings_are_hidden() -> None:
    (main,) = pod()["containers"]
    (mount,) = [m for m in main["volumeMounts"] if m["mountPath"] == "/etc/rabbitmq/conf.d"]
    (volume,) = [v for v in pod()["volumes"] if v["name"] == mount["name"]]
    assert volume["secret"]["items"] == [{"key": "admin.conf", "path": "50-admin.conf"}]


def test_a_client_is_the_user_of_its_own_virtual_host() -> None:
    clients = samples.accounts(samples.graph(samples.rabbitmq()), "rabbitmq")["clients"]
    assert [(c["name"], c["vhost"]) for c in clients] == [("billing", "billing"), ("orders", "orders")]


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
        samples.rabbitmq(RabbitmqClient("orders", vhost))


def test_two_clients_of_one_virtual_host_are_refused() -> None:
    with pytest.raises(ValueError, match="vhost shared has 2 users"):
        samples.rabbitmq(RabbitmqClient("orders", "shared"), RabbitmqClient("billing", "shared"))


def test_a_renewed_certificate_is_not_hidden_by_erlangs_cache() -> None:
    assert rabbitmq.environment()["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] == "-ssl bypass_pem_cache true"
