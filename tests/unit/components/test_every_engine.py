"""What the four engines have in common: safe servers, a credential for each client, accounts by a Job that is named after its content."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from app.accounts.desired import ConsulState, PostgresState, RabbitmqState, read_state
from components import accounts, consul, labels, postgres, rabbitmq, redis
from components.consul import ConsulClient
from components.postgres import PostgresClient
from components.rabbitmq import RabbitmqClient
from components.redis import RedisClient
from components.lib.workload import Resources
from tests.unit.components import engines
from tests.unit.components.engines import Args
from tests.unit.recording import Graph

MAKERS: Mapping[str, Callable[..., Args]] = {
    "postgres": engines.postgres,
    "redis": engines.redis,
    "rabbitmq": engines.rabbitmq,
    "consul": engines.consul,
}
WITH_JOB = ("postgres", "rabbitmq", "consul")
CLIENTS = {
    "postgres": (PostgresClient("orders", "orders"), PostgresClient("late", "late")),
    "redis": (RedisClient("orders", ("orders:*",)), RedisClient("late", ("late:*",))),
    "rabbitmq": (RabbitmqClient("orders", "orders"), RabbitmqClient("late", "late")),
    "consul": (ConsulClient("orders"), ConsulClient("late")),
}
PORTS = {"postgres": {5432}, "redis": {6379}, "rabbitmq": {5671, 15671}, "consul": {8501}}


@pytest.fixture(params=MAKERS)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def graph(engine: str) -> Graph:
    return engines.graph(MAKERS[engine]())


def job_name(graph: Graph) -> str:
    (job,) = graph.of_type("Job")
    return str(job.object_name)


def content(graph: Graph) -> str:
    return engines.server(graph)["spec.template.metadata.annotations"][labels.CONTENT_HASH]


def client_secrets(graph: Graph) -> dict[str, dict[str, str]]:
    return {s.name: s["stringData"] for s in graph.of_type("Secret") if s.name.startswith(("orders-", "billing-", "registry-"))}


def test_each_client_has_a_secret_of_its_own(engine: str, graph: Graph) -> None:
    found = client_secrets(graph)
    assert len(found) == 2
    keys = {"token"} if engine == "consul" else {"username", "password"}
    assert all(set(data) == keys for data in found.values())
    values = [data.get("password") or data["token"] for data in found.values()]
    assert len(set(values)) == 2


def test_only_the_ports_that_clients_use_are_offered(engine: str, graph: Graph) -> None:
    service = graph.one("Service", engine)
    assert {port["port"] for port in service["spec.ports"]} == PORTS[engine]
    assert service["spec.type"] == "ClusterIP"
    assert all(port["appProtocol"] for port in service["spec.ports"])


def test_the_pods_find_each_other_before_they_are_ready(engine: str, graph: Graph) -> None:
    headless = graph.one("Service", f"{engine}-headless")
    assert headless["spec.clusterIP"] == "None"
    assert headless["spec.publishNotReadyAddresses"] is True
    assert engines.server(graph)["spec.serviceName"] == f"{engine}-headless"


def test_clients_learn_where_it_is_and_which_secret_is_theirs(engine: str) -> None:
    outputs = engines.graph(MAKERS[engine]()).outputs
    assert outputs["host"] == f"{engine}.groundwork-dev.svc"
    assert outputs["port"] in PORTS[engine]
    assert outputs["credentials"]["orders"]["secret"] == f"orders-{engine}"
    assert re.fullmatch("[0-9a-f]{16}", outputs["credentials"]["orders"]["digest"])


def test_a_rotation_gives_every_client_another_credential_and_none_to_the_administrator(engine: str, graph: Graph) -> None:
    rotated = engines.graph(MAKERS[engine](rotation=2))
    assert all(client_secrets(graph)[name] != data for name, data in client_secrets(rotated).items())
    own = [s.name for s in graph.of_type("Secret") if s.name in {f"{engine}-admin", f"{engine}-secrets"}]
    assert [name for name in own if graph.one("Secret", name).inputs != rotated.one("Secret", name).inputs] == []


def test_the_server_rolls_when_its_certificate_changes(engine: str, graph: Graph) -> None:
    renewed = engines.graph(MAKERS[engine](tls=engines.tls(engine, "certificate-2")))
    assert content(graph) != content(renewed)


def test_the_server_rolls_when_its_configuration_changes(engine: str, graph: Graph) -> None:
    if engine == "consul":
        changed = engines.graph(engines.consul(servers=3))
    else:
        changed = engines.graph(MAKERS[engine](resources=Resources(cpu_m=100, memory_mib=1024)))
    assert content(graph) != content(changed)


def test_a_new_client_restarts_no_server_but_redis(engine: str) -> None:
    before = engines.graph(MAKERS[engine](CLIENTS[engine][0]))
    after = engines.graph(MAKERS[engine](*CLIENTS[engine]))
    assert (content(before) != content(after)) == (engine == "redis")


@pytest.mark.parametrize("engine", WITH_JOB)
def test_the_job_is_new_for_every_change_and_the_same_for_none(engine: str) -> None:
    make = MAKERS[engine]
    name = job_name(engines.graph(make()))
    assert job_name(engines.graph(make())) == name
    others = [make(rotation=2), make(CLIENTS[engine][0]), make(*CLIENTS[engine]), make(accounts_image="localhost/groundwork:2")]
    assert len({name, *(job_name(engines.graph(args)) for args in others)}) == 5


@pytest.mark.parametrize("engine", WITH_JOB)
def test_the_job_does_not_depend_on_the_order_of_clients(engine: str) -> None:
    first, second = CLIENTS[engine]
    assert job_name(engines.graph(MAKERS[engine](first, second))) == job_name(engines.graph(MAKERS[engine](second, first)))


@pytest.mark.parametrize("engine", WITH_JOB)
def test_the_job_waits_for_the_server_and_ends_in_bounded_time(engine: str) -> None:
    graph = engines.graph(MAKERS[engine]())
    (job,) = graph.of_type("Job")
    assert engines.server(graph).urn in job.dependencies
    assert job["spec.activeDeadlineSeconds"] > accounts.WAIT_SECONDS
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert job["spec.template.spec.restartPolicy"] == "Never"
    assert job["spec.template.spec.containers.0.args"] == ["-m", "app.accounts", engine]


@pytest.mark.parametrize("engine", WITH_JOB)
def test_a_cron_job_runs_the_same_pod_and_never_twice_at_a_time(engine: str) -> None:
    graph = engines.graph(MAKERS[engine]())
    (job,), (cron,) = graph.of_type("Job"), graph.of_type("CronJob")
    assert cron["spec.jobTemplate.spec.template"] == job["spec.template"]
    assert cron["spec.concurrencyPolicy"] == "Forbid"
    assert cron["spec.schedule"].endswith("-59/10 * * * *")


def test_the_cron_jobs_start_at_different_minutes() -> None:
    schedules = [engines.graph(MAKERS[engine]()).of_type("CronJob")[0]["spec.schedule"] for engine in WITH_JOB]
    assert len(set(schedules)) == len(WITH_JOB)


@pytest.mark.parametrize("engine", WITH_JOB)
def test_the_program_reads_exactly_what_the_component_renders(engine: str, tmp_path: Path) -> None:
    for name, text in engines.graph(MAKERS[engine]()).one("Secret", f"{engine}-accounts")["stringData"].items():
        (tmp_path / name).write_text(text)
    match engine:
        case "postgres":
            state = read_state(tmp_path, PostgresState)
        case "rabbitmq":
            state = read_state(tmp_path, RabbitmqState)
        case _:
            state = read_state(tmp_path, ConsulState)
    assert state.host == f"{engine}.groundwork-dev.svc"
    assert (tmp_path / "admin").read_text()
    names = {client.name for client in (state.tokens if isinstance(state, ConsulState) else state.clients)}
    assert names == ({"agent", "orders", "registry"} if engine == "consul" else {"orders", "billing"})


@pytest.mark.parametrize("engine", WITH_JOB)
def test_the_accounts_are_those_that_the_clients_mount(engine: str) -> None:
    graph = engines.graph(MAKERS[engine]())
    declared = json.dumps(engines.accounts(graph, engine))
    for data in client_secrets(graph).values():
        assert data.get("password") or data["token"] in declared


def test_data_is_kept_where_it_must_be(engine: str, graph: Graph) -> None:
    kept = engines.server(engines.graph(MAKERS[engine](retain_data=True)))
    assert kept.protect
    assert kept["spec.persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert not engines.server(graph).protect
    assert engines.server(graph)["spec.persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"


def test_the_volume_is_of_the_size_and_class_that_was_asked_for(engine: str, graph: Graph) -> None:
    (claim,) = engines.server(graph)["spec.volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert "storageClassName" not in claim["spec"]


def test_a_busy_server_is_given_a_minute_and_a_starting_one_two(engine: str, graph: Graph) -> None:
    container = engines.server(graph)["spec.template.spec.containers.0"]
    alive, started = container["livenessProbe"], container["startupProbe"]
    assert alive["failureThreshold"] * alive["periodSeconds"] >= 60
    assert started["failureThreshold"] * started["periodSeconds"] >= 120


def test_alive_asks_less_than_ready(engine: str, graph: Graph) -> None:
    container = engines.server(graph)["spec.template.spec.containers.0"]
    if engine == "redis":
        assert container["livenessProbe"]["exec"]["command"] == ["sh", "-c", redis.ALIVE]
    else:
        assert "tcpSocket" in container["livenessProbe"]


def test_what_it_needs_counts_the_server_the_job_and_the_cron_job() -> None:
    one, three = consul.demand(engines.consul()), consul.demand(engines.consul(servers=3))
    demands = {
        "postgres": postgres.demand(engines.postgres()),
        "redis": redis.demand(engines.redis()),
        "rabbitmq": rabbitmq.demand(engines.rabbitmq()),
        "consul": one,
    }
    assert {name: demand.pods for name, demand in demands.items()} == {"postgres": 3, "redis": 1, "rabbitmq": 3, "consul": 3}
    assert {demand.claims for demand in demands.values()} == {1}
    assert (three.pods, three.claims, three.storage_gib) == (5, 3, 3)


def test_every_pod_that_an_engine_starts_is_an_end_of_an_encrypted_edge() -> None:
    edges = {
        "postgres": postgres.edges("postgres", engines.postgres()),
        "redis": redis.edges("redis", engines.redis()),
        "rabbitmq": rabbitmq.edges("rabbitmq", engines.rabbitmq()),
        "consul": consul.edges("consul", engines.consul()),
    }
    for engine, own in edges.items():
        assert {edge.client.name for edge in own} == ({f"{engine}-accounts"} if engine in WITH_JOB else set())
        assert all(edge.tls for edge in own)


BAD = [
    ({"rotation": 0}, "rotation is 0: start at 1"),
    ({"storage_gib": 0}, "storage_gib is 0: give the volume at least 1 GiB"),
    ({"resources": Resources(cpu_m=10, memory_mib=32)}, "resources.memory_mib is 32: .* needs at least"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=["rotation", "storage", "memory"])
def test_a_bad_value_is_refused_with_the_field_the_value_and_the_fix(engine: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{engine}.{message}"):
        MAKERS[engine](**changes)


@pytest.mark.parametrize(("name", "message"), [("Orders", "cannot be a name"), ("o" * 64, "cannot be a name"), ("admin", "is taken"), ("", "cannot")])
def test_a_client_s_name_that_cannot_be_is_refused(engine: str, name: str, message: str) -> None:
    bad = {
        "postgres": PostgresClient(name, "orders"),
        "redis": RedisClient(name, ("orders:*",)),
        "rabbitmq": RabbitmqClient(name, "orders"),
        "consul": ConsulClient(name),
    }
    with pytest.raises(ValueError, match=message):
        MAKERS[engine](bad[engine])


def test_a_client_twice_is_refused(engine: str) -> None:
    first, _ = CLIENTS[engine]
    with pytest.raises(ValueError, match="orders is there 2 times"):
        MAKERS[engine](first, first)
