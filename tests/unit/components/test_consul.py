"""Consul: what its promises of safety rest on, for one server and for three. How servers behave with it: tests/app/configs."""

from __future__ import annotations

import json
import subprocess
import uuid
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from components import consul
from components.consul import ConsulClient, ConsulRole
from components.lib import stateful
from components.lib.contracts import Protocol, Transport
from tests.unit.components import samples


def config(servers: int = 1) -> dict[str, Any]:
    return json.loads(consul.server_config("consul", servers, "groundwork-dev", "cluster.local"))


def container(servers: int = 1) -> dict[str, Any]:
    return samples.main(samples.graph(samples.consul(servers=servers)))


def test_a_server_is_no_development_agent() -> None:
    command = container()["command"]
    assert "-dev" not in command
    assert command[:2] == ["consul", "agent"]
    assert config()["server"] is True
    assert config()["data_dir"] == consul.DATA


def test_only_the_encrypted_api_is_open() -> None:
    ports = config()["ports"]
    assert {name for name, number in ports.items() if number > 0} == {"https", "server", "serf_lan"}
    assert ports["http"] == -1


def test_access_is_denied_by_default() -> None:
    assert config()["acl"] == {"enabled": True, "default_policy": "deny", "down_policy": "extend-cache"}


def test_servers_verify_each_other() -> None:
    tls = config()["tls"]
    assert tls["internal_rpc"] == {"verify_incoming": True, "verify_server_hostname": True}
    assert tls["defaults"]["verify_outgoing"] is True


def test_nothing_older_than_tls_1_2_is_spoken() -> None:
    assert config()["tls"]["defaults"]["tls_min_version"] == "TLSv1_2"
    assert "tls_min_version" not in str({key: value for key, value in config()["tls"].items() if key != "defaults"})


def test_secrets_stand_in_a_secret_file_and_never_in_the_plain_one() -> None:
    graph = samples.graph(samples.consul())
    plain = graph.one("ConfigMap", "consul-config")
    assert "tokens" not in plain["data"]["server.json"]
    assert "encrypt" not in config()
    assert plain.secret_paths == ()
    secret = json.loads(graph.one("Secret", "consul-secrets")["stringData"]["secrets.json"])
    assert set(secret["acl"]["tokens"]) == {"initial_management", "agent"}
    assert len(b64decode(secret["encrypt"])) == 32


def test_a_server_reads_both_files() -> None:
    assert [word for word in container()["command"] if word.startswith("-config-file=")] == [
        f"-config-file={consul.CONFIG}/server.json",
        f"-config-file={consul.SECRETS}/secrets.json",
    ]


def test_no_token_is_an_argument_or_a_variable() -> None:
    graph = samples.graph(samples.consul())
    secrets = [*json.loads(graph.one("Secret", "consul-secrets")["stringData"]["secrets.json"])["acl"]["tokens"].values()]
    assert not [token for token in secrets if token in str(container())]


def test_the_management_token_of_the_job_is_the_servers() -> None:
    graph = samples.graph(samples.consul())
    tokens = json.loads(graph.one("Secret", "consul-secrets")["stringData"]["secrets.json"])["acl"]["tokens"]
    assert graph.one("Secret", "consul-accounts")["stringData"]["admin"] == tokens["initial_management"]
    agent = next(token for token in samples.accounts(graph, "consul")["tokens"] if token["name"] == "agent")
    assert agent["token"] == tokens["agent"]


def test_a_token_is_a_uuid_and_follows_from_its_secret() -> None:
    assert uuid.UUID(consul.token("a")).version == 4
    assert consul.token("a") == consul.token("a") != consul.token("b")


def test_no_value_is_made_by_a_resource_whose_id_would_show_it() -> None:
    graph = samples.graph(samples.consul())
    assert {r.type for r in graph.resources if r.type.startswith("random:")} == {"random:index/randomPassword:RandomPassword"}


def test_one_server_expects_itself_and_stays_a_member_when_it_ends() -> None:
    assert config()["bootstrap_expect"] == 1
    assert config()["leave_on_terminate"] is False
    assert "retry_join" not in config()


def test_three_servers_find_each_other_and_keep_a_quorum() -> None:
    three = config(3)
    assert three["bootstrap_expect"] == 3
    assert three["retry_join"] == ["consul-headless.groundwork-dev.svc.cluster.local"]
    assert three["autopilot"] == {"min_quorum": 2}
    assert three["leave_on_terminate"] is True


def test_three_servers_are_spread_and_evicted_one_at_a_time() -> None:
    graph = samples.graph(samples.consul(servers=3))
    assert graph.one("PodDisruptionBudget", "consul")["spec.maxUnavailable"] == 1
    assert samples.server(graph)["spec.replicas"] == 3
    assert [c["whenUnsatisfiable"] for c in samples.pod(graph)["topologySpreadConstraints"]] == ["ScheduleAnyway", "ScheduleAnyway"]


def test_servers_that_are_apart_never_share_a_node() -> None:
    constraints = samples.pod(samples.graph(samples.consul(servers=3, apart=True)))["topologySpreadConstraints"]
    assert {(c["topologyKey"], c["whenUnsatisfiable"], c["maxSkew"]) for c in constraints} == {
        ("kubernetes.io/hostname", "DoNotSchedule", 1),
        ("topology.kubernetes.io/zone", "ScheduleAnyway", 1),
    }
    chosen = {"app.kubernetes.io/name": "consul", "app.kubernetes.io/instance": "dev"}
    assert all(c["labelSelector"]["matchLabels"] == chosen for c in constraints)


def test_the_accounts_program_knows_every_server() -> None:
    three = samples.accounts(samples.graph(samples.consul(servers=3)), "consul")["servers"]
    assert three == [f"consul-{ordinal}.consul-headless.groundwork-dev.svc" for ordinal in range(3)]
    assert samples.accounts(samples.graph(samples.consul()), "consul")["servers"] == three[:1]


def test_a_budget_for_one_server_would_block_every_drain() -> None:
    assert samples.graph(samples.consul()).of_type("PodDisruptionBudget") == []


def test_servers_talk_to_each_other_where_there_are_more_than_one() -> None:
    server = samples.AT.workload("consul")
    among = {(e.server, e.port, e.protocol, e.transport) for e in samples.describe(samples.consul(servers=3)).edges if e.client == server}
    own = Transport.OWN_TLS
    assert among == {(server, 8300, Protocol.TCP, own), (server, 8301, Protocol.TCP, own), (server, 8301, Protocol.UDP, own)}
    assert [e for e in samples.describe(samples.consul()).edges if e.client == server] == []


PEERS = """\
Node      ID                                    Address         State     Voter  RaftProtocol  Commit Index  Trails Leader By
consul-0  05ce4991-4e9a-6505-b6ac-758228b28c0e  10.0.0.1:8300  {state}  {voter}  3             5             -
consul-1  e1e72207-67b7-a762-a126-d2ab1e89a254  10.0.0.2:8300  {other}  true   3             5             0 commits
"""


def is_ready(folder: Path, *, state: str = "follower", voter: str = "true", other: str = "leader", hostname: str = "consul-0", code: int = 0) -> bool:
    """What the probe says where the server's program says this."""
    program = folder / "consul"
    shown = PEERS.format(state=state, voter=voter, other=other) if code == 0 else ""
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'operator raft list-peers -stale' ] || exit 2\ncat <<'END'\n{shown}END\nexit {code}\n")
    program.chmod(0o755)
    command = container()["readinessProbe"]["exec"]["command"]
    return subprocess.run(command, env={"PATH": f"{folder}:/usr/bin:/bin", "HOSTNAME": hostname}, check=False, timeout=30).returncode == 0


@pytest.mark.parametrize(("state", "other"), [("leader", "follower"), ("follower", "leader")])
def test_a_server_that_votes_and_has_a_leader_is_ready(tmp_path: Path, state: str, other: str) -> None:
    assert is_ready(tmp_path, state=state, other=other)


def test_a_server_that_does_not_vote_yet_is_not_ready(tmp_path: Path) -> None:
    assert not is_ready(tmp_path, voter="false")


def test_a_server_without_a_leader_is_not_ready(tmp_path: Path) -> None:
    assert not is_ready(tmp_path, other="follower")


@pytest.mark.parametrize("hostname", ["consul", "consul-2", "onsul-0", "consul-0 05ce4991-4e9a-6505-b6ac-758228b28c0e"])
def test_a_server_that_is_no_member_is_not_ready(tmp_path: Path, hostname: str) -> None:
    assert not is_ready(tmp_path, hostname=hostname)


def test_a_server_that_says_nothing_is_not_ready(tmp_path: Path) -> None:
    assert not is_ready(tmp_path, code=1)


def test_a_server_that_starts_is_asked_the_same() -> None:
    assert container()["startupProbe"]["exec"] == container()["readinessProbe"]["exec"]


def test_the_question_shows_no_token() -> None:
    assert "CONSUL_HTTP_TOKEN_FILE=/run/groundwork/consul/token" in consul.VOTES
    assert "CONSUL_HTTP_TOKEN=" not in consul.VOTES
    secret = samples.graph(samples.consul()).one("Secret", "consul-secrets")
    (mounted,) = [v["secret"] for v in samples.pod(samples.graph(samples.consul()))["volumes"] if v["name"] == "secrets"]
    assert {item["path"] for item in mounted["items"]} == {"secrets.json", "token"}
    assert secret["stringData"]["token"] == consul.token(secret["stringData"]["management"])


def test_a_server_is_bound_to_its_pod_s_address() -> None:
    assert container()["command"][-1] == "-bind=$(POD_IP)"
    assert container()["env"] == [{"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}]


def test_a_reader_writes_nothing() -> None:
    assert "write" not in json.dumps(consul.rules((ConsulRole.READER,)))


def test_each_writer_writes_its_own_part_only() -> None:
    def writable(role: ConsulRole) -> set[tuple[str, str]]:
        granted = consul.rules((role,))
        return {(kind, name) for kind, rules in granted.items() for name, rule in rules.items() if rule["policy"] == "write"}

    assert writable(ConsulRole.CONFIG_WRITER) == {("key_prefix", "config/")}
    assert writable(ConsulRole.REGISTRY_WRITER) == {
        ("key_prefix", "registry/"),
        ("node", "platform-registry"),
        ("service_prefix", ""),
        ("session_prefix", ""),
    }


def test_no_role_reaches_the_access_lists_or_the_operator_s_commands() -> None:
    assert not {"acl", "operator", "keyring"} & consul.rules(tuple(ConsulRole)).keys()


def test_no_path_of_the_configuration_is_missing_in_the_pod() -> None:
    mounted = {mount["mountPath"] for mount in container()["volumeMounts"]}
    assert {stateful.TLS, stateful.CA, consul.CONFIG, consul.SECRETS, consul.DATA, "/tmp"} <= mounted


@pytest.mark.parametrize("servers", [0, 2, 4, 5])
def test_a_number_of_servers_that_has_no_use_is_refused(servers: int) -> None:
    with pytest.raises(ValueError, match=f"consul.servers is {servers}: use 1, or 3"):
        samples.consul(servers=servers)


def test_a_client_without_roles_is_refused() -> None:
    with pytest.raises(ValueError, match="orders has no roles: give it at least reader"):
        samples.consul(ConsulClient("orders", ()))


@pytest.mark.parametrize("image", ["consul:1.16", "consul", "docker.io/library/consul:1.16", "library/consul@sha256:0"])
def test_the_image_that_ended_with_1_15_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match=r"ended with version 1\.15, use hashicorp/consul"):
        samples.consul(image=image)


@pytest.mark.parametrize("image", ["hashicorp/consul:1.22.7", "localhost/groundwork/consul:1.22.7", "registry.example/consul:1"])
def test_an_image_of_one_s_own_is_welcome(image: str) -> None:
    assert samples.consul(image=image).image == image


def test_both_configuration_files_are_json_which_consul_reads() -> None:
    assert isinstance(config(), dict)
    assert isinstance(json.loads(consul.secret_config("a", "b", "c")), dict)
