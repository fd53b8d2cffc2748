"""PostgreSQL: what its promises of safety and of separate databases rest on. How the server behaves with it: tests/app/configs."""

from __future__ import annotations

import pytest

from components import postgres
from components.lib import stateful
from components.lib.workload import Resources
from components.postgres import PostgresClient
from tests.unit.components import samples


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_no_rule_lets_anybody_in_without_tls_or_without_a_password() -> None:
    rules = [rule.split() for rule in lines(postgres.HBA)]
    assert {rule[0] for rule in rules} == {"local", "hostssl"}
    assert {rule[-1] for rule in rules} == {"scram-sha-256"}


def test_the_server_speaks_tls_and_keeps_no_md5() -> None:
    config = lines(postgres.server_config(256, 100))
    assert "ssl = on" in config
    assert "ssl_min_protocol_version = 'TLSv1.2'" in config
    assert "password_encryption = 'scram-sha-256'" in config


def test_a_quarter_of_the_memory_is_shared_buffers() -> None:
    assert "shared_buffers = '64MB'" in lines(postgres.server_config(256, 100))


def test_no_value_of_a_statement_reaches_the_log() -> None:
    config = lines(postgres.server_config(256, 100))
    assert "log_parameter_max_length = 0" in config
    assert "log_parameter_max_length_on_error = 0" in config


def test_the_configuration_is_plain_and_without_secrets() -> None:
    graph = samples.graph(samples.postgres())
    config = graph.one("ConfigMap", "postgres-config")
    assert set(config["data"]) == {"postgresql.conf", "pg_hba.conf"}
    assert config.secret_paths == ()


def test_the_password_reaches_the_server_as_a_file_and_never_as_a_variable() -> None:
    container = samples.main(samples.graph(samples.postgres()))
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert "POSTGRES_PASSWORD" not in variables
    assert variables["POSTGRES_PASSWORD_FILE"] == f"{postgres.ADMIN_DIR}/password"


def test_the_server_mounts_no_credential_of_a_client() -> None:
    volumes = samples.pod(samples.graph(samples.postgres()))["volumes"]
    assert {v["secret"]["secretName"] for v in volumes if "secret" in v} == {"postgres-tls", "postgres-secrets"}
    (admin,) = [v["secret"] for v in volumes if v["name"] == "admin"]
    assert admin["items"] == [{"key": "admin", "path": "password"}]


def test_the_key_is_readable_by_its_group_alone() -> None:
    volumes = samples.pod(samples.graph(samples.postgres()))["volumes"]
    (tls,) = [v for v in volumes if v["name"] == "tls"]
    assert tls["secret"]["defaultMode"] == 0o440  # PostgreSQL refuses a key that others may read


def test_ready_asks_over_tcp() -> None:
    container = samples.main(samples.graph(samples.postgres()))
    command = container["readinessProbe"]["exec"]["command"]
    assert command[:4] == ["pg_isready", "-q", "-h", "127.0.0.1"]


def test_the_data_lies_below_the_mount() -> None:
    container = samples.main(samples.graph(samples.postgres()))
    (data,) = [v["value"] for v in container["env"] if v["name"] == "PGDATA"]
    assert data.startswith(postgres.DATA + "/")
    assert {"name": "data", "mountPath": postgres.DATA} in container["volumeMounts"]


@pytest.mark.parametrize("database", ["postgres", "template1", "Orders", "orders-1", "", "o" * 64])
def test_a_database_that_cannot_be_is_refused(database: str) -> None:
    with pytest.raises(ValueError, match=r"postgres\.clients: "):
        samples.postgres(PostgresClient("orders", database))


def test_a_new_volume_has_checksums_and_asks_for_passwords() -> None:
    container = samples.main(samples.graph(samples.postgres()))
    (initdb,) = [v["value"] for v in container["env"] if v["name"] == "POSTGRES_INITDB_ARGS"]
    assert {"--data-checksums", "--auth=scram-sha-256"} <= set(initdb.split())


def test_two_clients_of_one_database_are_refused() -> None:
    with pytest.raises(ValueError, match="database shared has 2 owners: give each client a database of its own"):
        samples.postgres(PostgresClient("orders", "shared"), PostgresClient("billing", "shared"))


def test_no_path_of_the_configuration_is_missing_in_the_pod() -> None:
    container = samples.main(samples.graph(samples.postgres()))
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {stateful.TLS, postgres.CONFIG, postgres.SOCKETS, postgres.ADMIN_DIR, "/tmp"} <= mounted


def shm(memory_mib: int) -> dict[str, object]:
    volumes = samples.pod(samples.graph(samples.postgres(resources=Resources(cpu_m=100, memory_mib=memory_mib))))["volumes"]
    (volume,) = [v["emptyDir"] for v in volumes if v["name"] == "shm"]
    return volume


def test_parallel_queries_have_shared_memory_that_counts_as_the_pod_s_own() -> None:
    assert shm(256) == {"medium": "Memory", "sizeLimit": "64Mi"}
    assert shm(4096) == {"medium": "Memory", "sizeLimit": "1024Mi"}
    container = samples.main(samples.graph(samples.postgres()))
    assert [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "shm"] == ["/dev/shm"]


def connections(*pools: int, **changes: object) -> str:
    """The line of the configuration for clients with these pools."""
    clients = [PostgresClient(f"client-{number}", f"client_{number}", connections=pool) for number, pool in enumerate(pools)]
    config = samples.graph(samples.postgres(*clients, **changes)).one("ConfigMap", "postgres-config")["data"]["postgresql.conf"]
    (line,) = [line for line in lines(config) if line.startswith("max_connections")]
    return line


def test_as_many_connections_are_taken_as_all_pools_may_open_and_some_for_the_administrator() -> None:
    assert connections(10, 10) == "max_connections = 100"
    assert connections(50, 31) == "max_connections = 150"
    assert connections(50, 30) == "max_connections = 100"


def test_a_service_that_grows_by_a_pod_restarts_no_database() -> None:
    assert connections(50, 40) == connections(50, 58)


def test_the_number_of_connections_may_be_set() -> None:
    assert connections(10, max_connections=30) == "max_connections = 30"
    assert connections(10, max_connections=500) == "max_connections = 500"


def test_fewer_connections_than_the_pools_may_open_are_refused() -> None:
    with pytest.raises(ValueError, match=r"postgres\.max_connections is 29: the services' pools may open 30: raise it"):
        connections(10, max_connections=29)


def test_nobody_but_the_owner_is_named_in_the_state_of_a_database() -> None:
    clients = samples.accounts(samples.graph(samples.postgres()), "postgres")["clients"]
    assert [(c["name"], c["database"]) for c in clients] == [("billing", "billing"), ("orders", "orders")]


@pytest.mark.parametrize("role", ["public", "none"])
def test_a_role_that_postgresql_reserves_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match=f"the role {role} belongs to PostgreSQL itself"):
        samples.postgres(PostgresClient(role, "orders"))
