"""PostgreSQL: what its promises of safety and of separate databases rest on. How the server behaves with it: tests/app/configs."""

from __future__ import annotations

import pytest

from components import postgres, stateful
from components.postgres import PostgresClient
from tests.unit.components import engines


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_no_rule_lets_anybody_in_without_tls_or_without_a_password() -> None:
    rules = [rule.split() for rule in lines(postgres.HBA)]
    assert {rule[0] for rule in rules} == {"local", "hostssl"}
    assert {rule[-1] for rule in rules} == {"scram-sha-256"}


def test_the_server_speaks_tls_and_keeps_no_md5() -> None:
    config = lines(postgres.server_config(256))
    assert "ssl = on" in config
    assert "password_encryption = 'scram-sha-256'" in config


def test_a_quarter_of_the_memory_is_shared_buffers() -> None:
    assert "shared_buffers = '64MB'" in lines(postgres.server_config(256))


def test_no_value_of_a_statement_reaches_the_log() -> None:
    config = lines(postgres.server_config(256))
    assert "log_parameter_max_length = 0" in config
    assert "log_parameter_max_length_on_error = 0" in config


def test_the_configuration_is_plain_and_without_secrets() -> None:
    graph = engines.graph(engines.postgres())
    config = graph.one("ConfigMap", "postgres-config")
    assert set(config["data"]) == {"postgresql.conf", "pg_hba.conf"}
    assert config.secret_paths == ()


def test_the_password_reaches_the_server_as_a_file_and_never_as_a_variable() -> None:
    container = engines.server(engines.graph(engines.postgres()))["spec.template.spec.containers.0"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert "POSTGRES_PASSWORD" not in variables
    assert variables["POSTGRES_PASSWORD_FILE"] == f"{postgres.ADMIN_DIR}/password"


def test_the_server_mounts_no_credential_of_a_client() -> None:
    volumes = engines.server(engines.graph(engines.postgres()))["spec.template.spec.volumes"]
    assert {v["secret"]["secretName"] for v in volumes if "secret" in v} == {"postgres-tls", "postgres-admin"}


def test_the_key_is_readable_by_its_group_alone() -> None:
    volumes = engines.server(engines.graph(engines.postgres()))["spec.template.spec.volumes"]
    (tls,) = [v for v in volumes if v["name"] == "tls"]
    assert tls["secret"]["defaultMode"] == 0o440  # PostgreSQL refuses a key that others may read


def test_ready_asks_over_tcp() -> None:
    container = engines.server(engines.graph(engines.postgres()))["spec.template.spec.containers.0"]
    command = container["readinessProbe"]["exec"]["command"]
    assert command[:4] == ["pg_isready", "-q", "-h", "127.0.0.1"]


def test_the_data_lies_below_the_mount() -> None:
    container = engines.server(engines.graph(engines.postgres()))["spec.template.spec.containers.0"]
    (data,) = [v["value"] for v in container["env"] if v["name"] == "PGDATA"]
    assert data.startswith(postgres.DATA + "/")
    assert {"name": "data", "mountPath": postgres.DATA} in container["volumeMounts"]


@pytest.mark.parametrize("database", ["postgres", "template1", "Orders", "orders-1", "", "o" * 64])
def test_a_database_that_cannot_be_is_refused(database: str) -> None:
    with pytest.raises(ValueError, match=r"postgres\.clients: "):
        engines.postgres(PostgresClient("orders", database))


def test_two_clients_of_one_database_are_refused() -> None:
    with pytest.raises(ValueError, match="database shared has 2 owners: give each client a database of its own"):
        engines.postgres(PostgresClient("orders", "shared"), PostgresClient("billing", "shared"))


def test_no_path_of_the_configuration_is_missing_in_the_pod() -> None:
    container = engines.server(engines.graph(engines.postgres()))["spec.template.spec.containers.0"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {stateful.TLS, postgres.CONFIG, postgres.SOCKETS, postgres.ADMIN_DIR, "/tmp"} <= mounted
