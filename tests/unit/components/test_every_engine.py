"""What the four engines have in common: safe servers, claims that outlive them, a credential for each client."""

from __future__ import annotations

import re

import pulumi
import pytest

from components.consul import ConsulClient
from components.lib import accounts, labels, stateful
from components.lib.contracts import Edge, Transport
from components.lib.engine import Found, own_secret
from components.lib.workload import LOG_MIB, Resources
from components.postgres import PostgresClient
from components.rabbitmq import RabbitmqClient
from components.redis import RedisClient
from tests.unit.components import samples
from tests.unit.components.samples import AT, MAKERS
from tests.unit.recording import Graph, record

CLIENTS = {
    "postgres": (PostgresClient("orders", "orders"), PostgresClient("late", "late")),
    "redis": (RedisClient("orders", ("orders:*",)), RedisClient("late", ("late:*",))),
    "rabbitmq": (RabbitmqClient("orders", "orders"), RabbitmqClient("late", "late")),
    "consul": (ConsulClient("orders"), ConsulClient("late")),
}
PORTS = {"postgres": {5432}, "redis": {6379}, "rabbitmq": {5671, 15671}, "consul": {8501}}
OWN = {"postgres": {"admin"}, "redis": {"admin"}, "rabbitmq": {"admin", "cookie"}, "consul": {"management", "agent", "gossip"}}
SECOND = {"postgres": "billing", "redis": "billing", "rabbitmq": "billing", "consul": "registry"}


@pytest.fixture(params=MAKERS)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def graph(engine: str) -> Graph:
    return samples.graph(MAKERS[engine]())


def content(graph: Graph) -> str:
    return samples.server(graph)["spec.template.metadata.annotations"][labels.CONTENT_HASH]


def client_secrets(graph: Graph) -> dict[str, dict[str, str]]:
    return {s.name: s["stringData"] for s in graph.of_type("Secret") if s.name.startswith(("orders-", "billing-", "registry-"))}


def test_each_client_has_a_secret_and_a_credential_of_its_own(engine: str, graph: Graph) -> None:
    found = client_secrets(graph)
    assert set(found) == {f"orders-{engine}", f"{SECOND[engine]}-{engine}"}
    keys = {"token"} if engine == "consul" else {"username", "password"}
    assert all(set(data) == keys for data in found.values())
    assert len({data.get("password") or data["token"] for data in found.values()}) == 2


def test_no_client_has_a_secret_that_belongs_to_the_engine(engine: str, graph: Graph) -> None:
    own = set(graph.one("Secret", f"{engine}-secrets")["stringData"].values()) | {graph.one("Secret", f"{engine}-accounts")["stringData"]["admin"]}
    assert not [name for name, data in client_secrets(graph).items() if own & set(data.values())]


@pytest.mark.parametrize("engine", ["postgres", "redis", "rabbitmq"])
def test_a_login_is_the_client_s_of_one_generation(engine: str) -> None:
    assert client_secrets(samples.graph(MAKERS[engine]()))[f"orders-{engine}"]["username"] == "orders.1"
    assert client_secrets(samples.graph(MAKERS[engine](rotation=2)))[f"orders-{engine}"]["username"] == "orders.2"


def test_only_the_ports_that_clients_use_are_offered(engine: str, graph: Graph) -> None:
    service = graph.one("Service", engine)
    assert {port["port"] for port in service["spec.ports"]} == PORTS[engine]
    assert service["spec.type"] == "ClusterIP"
    assert all(port["appProtocol"] for port in service["spec.ports"])


def test_both_services_and_the_server_select_the_pods_that_the_server_makes(engine: str, graph: Graph) -> None:
    made = samples.server(graph)["spec.template.metadata.labels"]
    selector = {labels.NAME: engine, labels.INSTANCE: "dev"}
    assert selector.items() <= made.items()
    for service in (engine, f"{engine}-headless"):
        assert graph.one("Service", service)["spec.selector"] == selector
    assert samples.server(graph)["spec.selector.matchLabels"] == selector


def test_every_port_of_a_service_is_one_of_the_container(engine: str, graph: Graph) -> None:
    numbers = {(port["name"], port["containerPort"]) for port in samples.main(graph)["ports"]}
    for service in (engine, f"{engine}-headless"):
        assert {(port["targetPort"], port["port"]) for port in graph.one("Service", service)["spec.ports"]} <= numbers


def test_the_pods_find_each_other_before_they_are_ready(engine: str, graph: Graph) -> None:
    headless = graph.one("Service", f"{engine}-headless")
    assert headless["spec.clusterIP"] == "None"
    assert headless["spec.publishNotReadyAddresses"] is True
    assert samples.server(graph)["spec.serviceName"] == f"{engine}-headless"


def test_clients_learn_where_it_is_and_a_digest_of_their_credential(engine: str, graph: Graph) -> None:
    assert graph.outputs["host"] == f"{engine}.groundwork-dev.svc"
    assert graph.outputs["port"] in PORTS[engine]
    assert set(graph.outputs["digests"]) == {"orders", SECOND[engine]}
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in graph.outputs["digests"].values())
    assert len(set(graph.outputs["digests"].values())) == 2


def test_clients_wait_for_the_accounts_and_their_credentials(engine: str, graph: Graph) -> None:
    job, _ = samples.jobs(graph)
    issued = [secret for secret in graph.of_type("Secret") if secret.name in client_secrets(graph)]
    assert set(graph.outputs["ready"]) == {job.urn, *(secret.urn for secret in issued)}


def test_a_credential_is_written_when_the_engine_knows_it(graph: Graph) -> None:
    job, _ = samples.jobs(graph)
    issued = [secret for secret in graph.of_type("Secret") if secret.name in client_secrets(graph)]
    assert [secret.name for secret in issued if job.urn not in secret.dependencies] == []


def test_a_rotation_gives_every_client_another_credential_and_none_to_the_engine_itself(engine: str, graph: Graph) -> None:
    rotated = samples.graph(MAKERS[engine](rotation=2))
    old, new = client_secrets(graph), client_secrets(rotated)
    key = "token" if engine == "consul" else "password"
    assert [name for name in old if old[name][key] == new[name][key]] == []
    assert not set(graph.outputs["digests"].values()) & set(rotated.outputs["digests"].values())
    assert graph.one("Secret", f"{engine}-secrets").inputs == rotated.one("Secret", f"{engine}-secrets").inputs
    assert content(graph) == content(rotated)


def test_a_renewed_certificate_restarts_no_server(engine: str, graph: Graph) -> None:
    renewed = samples.graph(MAKERS[engine](tls=samples.tls(engine, samples.RENEWED)))
    assert samples.server(graph).inputs == samples.server(renewed).inputs


def test_a_server_mounts_its_own_certificate_and_the_authority_alone(engine: str, graph: Graph) -> None:
    volumes = samples.pod(graph)["volumes"]
    assert {v["secret"]["secretName"] for v in volumes if "secret" in v} == {f"{engine}-tls", f"{engine}-secrets"}
    assert {v["configMap"]["name"] for v in volumes if "configMap" in v} == {"groundwork-ca", f"{engine}-config"}


def test_what_a_server_mounts_of_secrets_is_for_its_group_alone(graph: Graph) -> None:
    assert {v["secret"]["defaultMode"] for v in samples.pod(graph)["volumes"] if "secret" in v} == {0o440}


def test_the_server_rolls_when_its_configuration_changes(engine: str, graph: Graph) -> None:
    if engine == "consul":
        changed = samples.graph(samples.consul(servers=3))
    else:
        changed = samples.graph(MAKERS[engine](resources=Resources(cpu_m=100, memory_mib=1024)))
    assert content(graph) != content(changed)


@pytest.mark.parametrize("engine", ["redis", "rabbitmq", "consul"])
def test_the_server_rolls_when_a_secret_file_of_its_own_changes(engine: str) -> None:
    changed = samples.graph(MAKERS[engine](found=Found(dict.fromkeys(OWN[engine], "another-secret-than-the-generated-one"))))
    assert content(samples.graph(MAKERS[engine]())) != content(changed)


def test_a_new_client_restarts_no_server(engine: str) -> None:
    before = samples.graph(MAKERS[engine](CLIENTS[engine][0]))
    after = samples.graph(MAKERS[engine](*CLIENTS[engine]))
    if engine != "postgres":
        assert samples.server(before).inputs == samples.server(after).inputs
    assert content(before) == content(after)


def test_what_the_volume_knows_is_generated_once_and_kept_in_one_secret(engine: str, graph: Graph) -> None:
    secret = graph.one("Secret", f"{engine}-secrets")
    assert OWN[engine] <= secret["stringData"].keys()
    assert secret["metadata.labels"][labels.KEEP] == "true"
    assert {path.split(".")[0] for path in secret.secret_paths} == {"stringData"}
    for key in OWN[engine]:
        generator = graph.one("RandomPassword", f"{engine}-{key}")
        assert "keepers" not in generator.inputs
        assert generator["length"] >= 40
        assert secret["stringData"][key] == f"generated-{engine}-{key}-"


def test_what_the_cluster_still_has_opens_the_volume_and_the_generators_stay(engine: str, graph: Graph) -> None:
    kept = {key: f"kept-{key}-which-is-long-enough" for key in OWN[engine]}
    again = samples.graph(MAKERS[engine](found=Found(kept)))
    secret = again.one("Secret", f"{engine}-secrets")
    assert kept.items() <= secret["stringData"].items()
    assert "generated-" not in str(secret.inputs)
    assert secret.secret_paths
    made = [{r.name for r in g.of_type("RandomPassword")} for g in (graph, again)]
    assert made[0] == made[1]


def test_what_the_cluster_still_has_is_as_secret_as_what_is_new() -> None:
    def build() -> None:
        parent = pulumi.ComponentResource("groundwork:data:Sample", "sample")
        pulumi.export("found", own_secret("found", "kept-in-the-cluster", parent=parent))
        pulumi.export("new", own_secret("new", None, parent=parent))

    graph = record(build)
    assert graph.outputs == {"found": "kept-in-the-cluster", "new": "generated-new-"}
    assert set(graph.secret_outputs) == {"found", "new"}


def test_only_what_is_missing_in_the_cluster_is_new() -> None:
    again = samples.graph(samples.consul(found=Found({"management": "kept-management-secret"})))
    data = again.one("Secret", "consul-secrets")["stringData"]
    assert (data["management"], data["gossip"]) == ("kept-management-secret", "generated-consul-gossip-")


def test_each_pod_has_a_claim_under_the_name_that_its_stateful_set_looks_for(engine: str, graph: Graph) -> None:
    (claim,) = graph.of_type("PersistentVolumeClaim")
    (template,) = samples.server(graph)["spec.volumeClaimTemplates"]
    assert claim.object_name == f"{template['metadata']['name']}-{engine}-0"
    assert claim.name == claim.object_name  # another name in Pulumi's state would be another volume
    assert samples.server(graph).name == engine
    assert claim.urn in samples.server(graph).dependencies


def test_a_claim_is_made_without_waiting_for_the_pod_that_waits_for_it(graph: Graph) -> None:
    (claim,) = graph.of_type("PersistentVolumeClaim")
    assert claim["metadata.annotations"] == {"pulumi.com/skipAwait": "true"}


def test_three_servers_have_three_claims() -> None:
    graph = samples.graph(samples.consul(servers=3))
    assert {c.object_name for c in graph.of_type("PersistentVolumeClaim")} == {f"data-consul-{n}" for n in range(3)}


def test_the_volume_is_of_the_size_and_class_that_was_asked_for(engine: str, graph: Graph) -> None:
    for claim in graph.of_type("PersistentVolumeClaim"):
        assert claim["spec.resources.requests.storage"] == "1Gi"
        assert claim["spec.accessModes"] == ["ReadWriteOnce"]
        assert "storageClassName" not in claim["spec"]
    at = samples.Placement("dev", "groundwork-dev", storage_class="fast")
    larger = samples.graph(MAKERS[engine](at=at, storage_gib=7)).one("PersistentVolumeClaim", f"data-{engine}-0")
    assert (larger["spec.resources.requests.storage"], larger["spec.storageClassName"]) == ("7Gi", "fast")


def test_a_larger_volume_replaces_no_stateful_set(graph: Graph) -> None:
    assert samples.server(graph).ignore_changes == ("spec.volumeClaimTemplates",)


def test_data_and_what_opens_it_outlive_a_destroy_where_they_must(engine: str, graph: Graph) -> None:
    kept = samples.graph(MAKERS[engine](retain_data=True))
    retained = {(r.type.rpartition(":")[2], r.object_name) for r in kept.resources if r.retain}
    assert retained == {("PersistentVolumeClaim", f"data-{engine}-0"), ("Secret", f"{engine}-secrets")}
    assert [r.name for r in graph.resources if r.retain] == []


def test_no_controller_deletes_a_volume(graph: Graph) -> None:
    assert samples.server(graph)["spec.persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_a_pod_that_a_bad_template_left_behind_is_replaced(graph: Graph) -> None:
    assert samples.server(graph)["spec.podManagementPolicy"] == "Parallel"


def test_every_workload_of_an_engine_runs_as_a_service_account_of_its_own(engine: str, graph: Graph) -> None:
    accounts = {account.object_name: account for account in graph.of_type("ServiceAccount")}
    assert set(accounts) == {engine, f"{engine}-accounts"}
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    assert samples.pod(graph)["serviceAccountName"] == engine
    assert accounts[engine].urn in samples.server(graph).dependencies
    for job in samples.jobs(graph):
        assert job["spec.template.spec.serviceAccountName"] == f"{engine}-accounts"


def test_a_busy_server_is_given_a_minute_and_a_starting_one_two(graph: Graph) -> None:
    alive, started = samples.main(graph)["livenessProbe"], samples.main(graph)["startupProbe"]
    assert alive["failureThreshold"] * alive["periodSeconds"] >= 60
    assert started["failureThreshold"] * started["periodSeconds"] >= 120


@pytest.mark.parametrize("engine", ["postgres", "rabbitmq", "consul"])
def test_alive_asks_for_an_open_port_only(engine: str) -> None:
    probe = samples.main(samples.graph(MAKERS[engine]()))["livenessProbe"]
    assert probe["tcpSocket"]["port"] in PORTS[engine]


@pytest.mark.parametrize("engine", ["postgres", "redis", "consul"])
def test_alive_asks_less_than_ready(engine: str) -> None:
    container = samples.main(samples.graph(MAKERS[engine]()))
    question = [
        {key: probe[key] for key in ("exec", "tcpSocket") if key in probe} for probe in (container["livenessProbe"], container["readinessProbe"])
    ]
    assert question[0] != question[1]


def test_logs_have_room_of_their_own_beside_the_scratch_space(engine: str) -> None:
    container = samples.main(samples.graph(MAKERS[engine](resources=Resources(cpu_m=100, memory_mib=512, scratch_mib=333))))
    (tmp,) = [
        v
        for v in samples.pod(samples.graph(MAKERS[engine](resources=Resources(cpu_m=100, memory_mib=512, scratch_mib=333))))["volumes"]
        if v["name"] == "tmp"
    ]
    assert tmp["emptyDir"] == {"sizeLimit": "333Mi"}
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["ephemeral-storage"] == f"{333 + LOG_MIB}Mi"


def test_what_it_needs_counts_the_servers_two_jobs_and_a_run_of_the_cron_job(engine: str) -> None:
    demand = samples.describe(MAKERS[engine](storage_gib=5)).demand
    assert (demand.pods, demand.claims, demand.storage_gib) == (4, 1, 5)


def test_a_container_that_runs_before_the_server_is_described_where_there_is_one(engine: str, graph: Graph) -> None:
    (server, *_) = samples.describe(MAKERS[engine]()).demand.shapes
    assert len(server.init_containers) == len(samples.pod(graph).get("initContainers", []))
    assert len(server.containers) == len(samples.pod(graph)["containers"])


def test_what_three_servers_need_is_counted_three_times() -> None:
    one, three = samples.describe(samples.consul()).demand, samples.describe(samples.consul(servers=3)).demand
    assert (three.pods, three.claims, three.storage_gib) == (6, 3, 3)
    for field in ("cpu_m", "cpu_limit_m", "memory_mib", "ephemeral_mib"):
        assert three.sum(field) - one.sum(field) == 2 * int(getattr(samples.CONSUL.resources, field))


def test_only_the_accounts_program_calls_an_engine_unasked_and_encrypted(engine: str) -> None:
    described = samples.describe(MAKERS[engine]())
    server, jobs = AT.workload(engine), AT.workload(f"{engine}-accounts")
    assert set(described.workloads) == {server, jobs}
    assert set(described.edges) == {Edge(jobs, server, port, Transport.OWN_TLS) for port in PORTS[engine]}


def test_the_mounts_of_every_container_are_volumes_of_its_pod(engine: str, graph: Graph) -> None:
    spec = samples.pod(graph)
    there = {volume["name"] for volume in spec["volumes"]} | {"data"}
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        assert {mount["name"] for mount in container["volumeMounts"]} <= there
        assert {
            "name": "data",
            "mountPath": {"postgres": "/var/lib/postgresql/data", "redis": "/data", "rabbitmq": "/var/lib/rabbitmq", "consul": "/consul/data"}[
                engine
            ],
        } in container["volumeMounts"]


BAD = [
    ({"rotation": accounts.MAX_ROTATION + 1}, "rotation is 10000: start at 1"),
    ({"rotation": 0}, "rotation is 0: start at 1"),
    ({"storage_gib": 0}, "storage_gib is 0: give the volume 1 to 65536 GiB"),
    ({"storage_gib": stateful.MAX_STORAGE_GIB + 1}, "storage_gib is 65537: give the volume 1 to 65536 GiB"),
    ({"resources": Resources(cpu_m=10, memory_mib=32)}, "resources.memory_mib is 32: .* needs at least"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=["many", "rotation", "storage", "huge", "memory"])
def test_a_bad_value_is_refused_with_the_field_the_value_and_the_fix(engine: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{engine}.{message}"):
        MAKERS[engine](**changes)


def test_all_that_is_wrong_is_said_at_once(engine: str) -> None:
    with pytest.raises(ValueError, match=rf"{engine}\.rotation is 0.*; {engine}\.storage_gib is 0"):
        MAKERS[engine](rotation=0, storage_gib=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Orders", "cannot be a name"),
        ("orders.1", "cannot be a name"),
        ("o" * 59, "cannot be a name"),
        ("", "cannot be a name"),
        ("admin", "is taken"),
        ("guest", "is taken"),
        ("default", "is taken"),
    ],
)
def test_a_client_s_name_that_cannot_be_is_refused(engine: str, name: str, message: str) -> None:
    bad = {
        "postgres": PostgresClient(name, "orders"),
        "redis": RedisClient(name, ("orders:*",)),
        "rabbitmq": RabbitmqClient(name, "orders"),
        "consul": ConsulClient(name),
    }
    with pytest.raises(ValueError, match=message):
        MAKERS[engine](bad[engine])


def test_the_longest_name_leaves_room_for_its_last_generation(engine: str) -> None:
    longest = "o" * accounts.MAX_NAME
    assert not list(accounts.bad_clients(engine, [longest]))
    assert len(accounts.login(longest, accounts.MAX_ROTATION)) == 63


def test_a_client_twice_is_refused(engine: str) -> None:
    first, _ = CLIENTS[engine]
    with pytest.raises(ValueError, match="orders is there 2 times"):
        MAKERS[engine](first, first)
