"""Accounts by Jobs: the first one adds, the last one retires, and what has succeeded is not run again for nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.accounts.desired import ConsulState, PostgresState, RabbitmqState, RedisState, read_state
from components.lib import accounts
from components.lib.accounts import RESOURCES
from components.lib.engine import Found
from tests.unit.components import samples
from tests.unit.components.samples import MAKERS
from tests.unit.components.test_every_engine import CLIENTS, client_secrets
from tests.unit.recording import Graph


@pytest.fixture(params=MAKERS)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def graph(engine: str) -> Graph:
    return samples.graph(MAKERS[engine]())


def names(graph: Graph) -> tuple[str | None, str | None]:
    """What the two Jobs are called in the cluster."""
    first, last = samples.jobs(graph)
    return first.object_name, last.object_name


def image(graph: Graph, kind: str = "Job") -> list[str]:
    path = "spec.jobTemplate.spec.template.spec" if kind == "CronJob" else "spec.template.spec"
    return [each[path]["containers"][0]["image"] for each in graph.of_type(kind)]


def test_the_jobs_are_new_for_every_change_and_the_same_for_none(engine: str, graph: Graph) -> None:
    make = MAKERS[engine]
    assert names(samples.graph(make())) == names(graph)
    others = [make(rotation=2), make(CLIENTS[engine][0]), make(*CLIENTS[engine]), make(tls=samples.tls(engine, samples.RENEWED))]
    every = [names(graph), *(names(samples.graph(args)) for args in others)]
    assert len({name for pair in every for name in pair}) == 2 * len(every)


def test_the_jobs_do_not_depend_on_the_order_of_clients(engine: str) -> None:
    first, second = CLIENTS[engine]
    assert names(samples.graph(MAKERS[engine](first, second))) == names(samples.graph(MAKERS[engine](second, first)))


def test_a_job_that_succeeded_is_not_run_again_for_a_new_image_alone(engine: str, graph: Graph) -> None:
    first, last = samples.jobs(graph)
    done = Found(jobs={str(job.object_name): "localhost/groundwork:1" for job in (first, last)})
    updated = samples.graph(MAKERS[engine](accounts_image="localhost/groundwork:2", found=done))
    assert [job.inputs for job in samples.jobs(updated)] == [first.inputs, last.inputs]
    assert image(updated, "CronJob") == ["localhost/groundwork:2"]


def test_a_job_that_has_not_succeeded_runs_the_new_image(engine: str) -> None:
    others = Found(jobs={f"{engine}-accounts-0123456789abcdef": "localhost/groundwork:1"})
    assert image(samples.graph(MAKERS[engine](accounts_image="localhost/groundwork:2", found=others))) == ["localhost/groundwork:2"] * 2


def test_a_change_of_content_runs_the_new_image(engine: str, graph: Graph) -> None:
    done = Found(jobs={str(job.object_name): "localhost/groundwork:1" for job in samples.jobs(graph)})
    changed = samples.graph(MAKERS[engine](accounts_image="localhost/groundwork:2", found=done, rotation=2))
    assert image(changed) == ["localhost/groundwork:2"] * 2


def test_the_first_job_waits_for_the_server_and_both_end_in_bounded_time(engine: str, graph: Graph) -> None:
    first, last = samples.jobs(graph)
    assert samples.server(graph).urn in first.dependencies
    for job in (first, last):
        assert job["spec.activeDeadlineSeconds"] > accounts.WAIT_SECONDS
        assert job["spec.backoffLimit"] > 0
        assert "ttlSecondsAfterFinished" not in job["spec"]
        assert job["spec.template.spec.restartPolicy"] == "Never"
        assert job["spec.template.spec.containers.0.args"] == ["-m", "app.accounts", engine]
        assert job["metadata.annotations"] == {"pulumi.com/replaceUnready": "true"}


def test_each_job_mounts_the_state_that_it_applies(engine: str, graph: Graph) -> None:
    first, last = samples.jobs(graph)
    for job, secret in ((first, f"{engine}-accounts"), (last, f"{engine}-accounts-retire")):
        volumes = job["spec.template.spec.volumes"]
        assert [v["secret"]["secretName"] for v in volumes if "secret" in v] == [secret]
        assert graph.one("Secret", secret).urn in job.dependencies


def test_nothing_is_taken_away_before_the_clients_have_rolled(engine: str, graph: Graph) -> None:
    assert samples.accounts(graph, engine)["retire"] is False
    assert samples.accounts(graph, engine, retire=True)["retire"] is True


def test_both_jobs_apply_the_same_accounts(engine: str, graph: Graph) -> None:
    first, last = samples.accounts(graph, engine), samples.accounts(graph, engine, retire=True)
    assert {**first, "retire": True} == last


def test_the_cron_job_repeats_the_job_that_takes_nothing_away_and_never_twice_at_a_time(engine: str, graph: Graph) -> None:
    (cron,) = graph.of_type("CronJob")
    first, last = samples.jobs(graph)
    # Before an `up` has come to its end it does not know of a service that was just added, and would take its account away.
    assert cron["spec.jobTemplate.spec.template"] == first["spec.template"]
    assert cron["spec.concurrencyPolicy"] == "Forbid"
    assert cron["spec.schedule"].endswith("-59/10 * * * *")
    assert last.urn in cron.dependencies


def test_the_cron_job_of_version_0_1_is_the_same_object(graph: Graph) -> None:
    (cron,) = graph.of_type("CronJob")
    (engine,) = (r for r in graph.components() if r.type != "groundwork:app:Retirement")
    assert engine.urn in cron.aliases


def test_the_cron_jobs_start_at_different_minutes() -> None:
    schedules = [samples.graph(make()).of_type("CronJob")[0]["spec.schedule"] for make in MAKERS.values()]
    assert len(set(schedules)) == len(MAKERS)


def test_the_state_says_its_generation_and_the_certificate_that_is_to_be_shown(engine: str) -> None:
    state = samples.accounts(samples.graph(MAKERS[engine](rotation=3, tls=samples.tls(engine, samples.RENEWED))), engine)
    assert (state["generation"], state["certificate"]) == (3, samples.RENEWED)
    assert state["host"] == f"{engine}.groundwork-dev.svc"


def read(engine: str, folder: Path) -> PostgresState | RedisState | RabbitmqState | ConsulState:
    """The mounted files as the program reads them."""
    match engine:
        case "postgres":
            return read_state(folder, PostgresState)
        case "redis":
            return read_state(folder, RedisState)
        case "rabbitmq":
            return read_state(folder, RabbitmqState)
        case _:
            return read_state(folder, ConsulState)


@pytest.mark.parametrize("retire", [False, True])
def test_the_program_reads_exactly_what_the_component_renders(engine: str, retire: bool, tmp_path: Path) -> None:
    secret = samples.graph(MAKERS[engine]()).one("Secret", f"{engine}-accounts{'-retire' if retire else ''}")
    for name, text in secret["stringData"].items():
        (tmp_path / name).write_text(text)
    state = read(engine, tmp_path)
    assert (state.host, state.retire) == (f"{engine}.groundwork-dev.svc", retire)
    assert (tmp_path / "admin").read_text()
    names = {client.name for client in (state.tokens if isinstance(state, ConsulState) else state.clients)}
    assert names == ({"agent", "orders", "registry"} if engine == "consul" else {"orders", "billing"})


def test_the_accounts_are_those_that_the_clients_mount(engine: str, graph: Graph) -> None:
    declared = samples.accounts(graph, engine)
    known = {(c.get("login"), c.get("password") or c["token"]) for c in declared.get("clients") or declared["tokens"]}
    mounted = {(data.get("username"), data.get("password") or data["token"]) for data in client_secrets(graph).values()}
    if engine == "consul":
        assert mounted < known  # the servers have a token of their own
    else:
        assert mounted == known


def test_two_clients_accounts_are_never_called_alike() -> None:
    assert accounts.login("orders", 11) != accounts.login("orders-1", 1)
    assert not list(accounts.bad_clients("redis", ["orders-1"]))
    assert list(accounts.bad_clients("redis", ["orders.1"]))


def test_the_administrator_s_secret_lies_beside_the_state_and_in_no_other_place_of_the_job(engine: str, graph: Graph) -> None:
    for job in samples.jobs(graph):
        assert job.secret_paths == ()
        assert "generated-" not in json.dumps(job.inputs)
    for name in (f"{engine}-accounts", f"{engine}-accounts-retire"):
        assert {path.split(".")[0] for path in graph.one("Secret", name).secret_paths} == {"stringData"}
        assert set(graph.one("Secret", name)["stringData"]) == {"accounts.json", "admin"}


def test_the_jobs_of_an_engine_are_counted_with_one_that_is_on_its_way_out() -> None:
    demand = accounts.demand()
    assert (demand.pods, demand.sum("memory_mib"), demand.claims) == (3, 3 * RESOURCES.memory_mib, 0)
