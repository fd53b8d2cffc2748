"""What holds for every stack, the shipped ones and any that a stack file can describe: an edge is the whole contract.

An edge <=> the rules of both its ends <=> an account in the engine <=> a credential in the client's pods <=> a section of its settings <=> a
check of its readiness. No credential has two owners, nothing is sent in clear text without a reason, and every name means pods that run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.lib import labels
from components.lib.accounts import login, workload_name
from components.lib.contracts import ApiServer, ClusterPods, Edge, Outside, Peer, Transport, Workload
from components.lib.description import Description, UnknownWorkload, together
from groundwork import engines as runtime
from groundwork.consul.client import ConsulClient
from groundwork.settings import Settings
from stacks import stackfile
from stacks.catalog import ENGINES, FOR_ALL, USABLE
from stacks.cluster.facts import Address, ClusterFacts, DnsServers, assumed
from stacks.plan import planned
from stacks.platform import Built
from stacks.settings import PLATFORM_SERVICES, StackSettings
from tests.unit.recording import Graph, Registered
from tests.unit.rendered import SHIPPED, Pod, pods, shipped

RuleKey = tuple[str, str, str, str, int, str]  # direction, namespace and name of the policy, peer, port, protocol


@dataclass(frozen=True)
class World:
    """A stack: what its file says, what the program knows, and what it registers."""

    stack: str
    settings: StackSettings
    graph: Graph
    built: Built

    @property
    def namespace(self) -> str:
        return self.settings.namespace_of(self.stack)

    def workload(self, name: str) -> Workload:
        return Workload(name, self.namespace)

    def edges_of(self, client: str) -> list[Edge]:
        """The edges of one workload as a client."""
        return [edge for edge in self.built.edges if edge.client == self.workload(client)]

    def accounts(self, engine: str) -> dict[str, dict[str, Any]]:
        """The accounts of the services in one engine, by the client's name, as the accounts program reads them."""
        state = json.loads(self.graph.one("Secret", f"{engine}-accounts")["stringData"]["accounts.json"])
        listed = cast("list[dict[str, Any]]", state.get("clients") or state.get("tokens") or [])
        return {account["name"]: account for account in listed if account["name"] != "agent"}  # Consul's servers have a token of their own

    def section(self, service: str) -> dict[str, Any]:
        """settings.json of one service."""
        return json.loads(self.graph.one("ConfigMap", f"{service}-settings")["data"]["settings.json"])


def world_of(stack: str) -> World:
    """A shipped stack."""
    return World(stack, stackfile.read(stack), *shipped(stack))


# --- the theorems ---


def on_the_wire(peer: Peer, stack: str, namespace: str) -> list[str]:
    """A peer as a policy in `namespace` must have it, whole: a wider form is another text. Told independently of components/network.py."""

    def in_namespace(name: str) -> dict[str, object]:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}

    match peer:
        case Workload():
            chosen = {"podSelector": {"matchLabels": {labels.NAME: peer.name, labels.INSTANCE: stack}}}
            found = [{**chosen, **({} if peer.namespace == namespace else in_namespace(peer.namespace))}]
        case ClusterPods():
            found = [{"podSelector": {"matchLabels": dict(peer.labels)}, **in_namespace(peer.namespace)}]
        case Outside() | ApiServer():
            found = [{"ipBlock": {"cidr": cidr}} for cidr in peer.cidrs]
    return [json.dumps(form, sort_keys=True) for form in found]


def wanted_rules(world: World) -> set[RuleKey]:
    """What the edges ask for at both ends."""
    wanted = set[RuleKey]()
    for edge in world.built.edges:
        for here, there, direction in ((edge.client, edge.server, "egress"), (edge.server, edge.client, "ingress")):
            if isinstance(here, Workload):
                for peer in on_the_wire(there, world.stack, here.namespace):
                    wanted.add((direction, here.namespace, here.name, peer, edge.port, edge.protocol.value))
    return wanted


def allowed(world: World) -> Iterator[RuleKey]:
    """What the policies allow."""
    for policy in world.graph.of_type("NetworkPolicy"):
        for direction, ends in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                assert rule.get(ends), f"{policy.object_name}: {direction} for everybody"
                assert rule.get("ports"), f"{policy.object_name}: {direction} to every port"
                for peer in rule[ends]:
                    for port in rule["ports"]:
                        place = (policy["metadata.namespace"], str(policy.object_name))
                        yield (direction, *place, json.dumps(peer, sort_keys=True), port["port"], port["protocol"])


def every_rule_is_an_edge_and_every_edge_a_rule_at_both_its_ends(world: World) -> None:
    assert set(allowed(world)) == wanted_rules(world)


def a_policy_selects_exactly_the_pods_of_its_workload_and_governs_both_directions(world: World) -> None:
    running = {(pod.namespace, pod.name) for pod in pods(world.graph)}
    fenced = set[tuple[str, str]]()
    for policy in world.graph.of_type("NetworkPolicy"):
        assert policy["spec.policyTypes"] == ["Ingress", "Egress"], policy.object_name
        if policy.object_name == "default-deny":
            assert policy["spec.podSelector"] == {}
            continue
        place = (policy["metadata.namespace"], str(policy.object_name))
        assert selected(world, policy, "spec.podSelector.matchLabels") == {place}
        fenced.add(place)
    assert fenced == running


def selected(world: World, by: Registered, path: str) -> set[tuple[str, str]]:
    """The workloads whose pods a selector finds."""
    chosen = cast("dict[str, str]", by[path])
    assert chosen
    found = [pod for pod in pods(world.graph) if pod.namespace == by["metadata.namespace"] and chosen.items() <= pod.labels.items()]
    return {(pod.namespace, pod.name) for pod in found}


def a_service_selects_exactly_the_pods_of_its_own_workload(world: World) -> None:
    for service in world.graph.of_type("kubernetes:core/v1:Service"):
        owner = str(service.object_name).removesuffix("-headless")
        assert selected(world, service, "spec.selector") == {(service["metadata.namespace"], owner)}, service.object_name


def a_controller_selects_exactly_the_pods_that_it_makes(world: World) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for controller in world.graph.of_type(kind):
            assert selected(world, controller, "spec.selector.matchLabels") == {(controller["metadata.namespace"], str(controller.object_name))}


def every_end_of_an_edge_is_a_workload_that_runs_and_listens_on_the_edge_s_port(world: World) -> None:
    running: dict[tuple[str, str], list[Pod]] = {}
    for pod in pods(world.graph):
        running.setdefault((pod.namespace, pod.name), []).append(pod)
    for edge in world.built.edges:
        for end in (edge.client, edge.server):
            if isinstance(end, Workload):
                assert (end.namespace, end.name) in running, edge
        if isinstance(edge.server, Workload):
            for pod in running[edge.server.namespace, edge.server.name]:
                open_ports = {(port["containerPort"], port.get("protocol", "TCP")) for c in pod.spec["containers"] for port in c.get("ports", [])}
                assert (edge.port, edge.protocol.value) in open_ports, edge


def an_account_is_an_edge_and_an_edge_to_an_engine_an_account(world: World) -> None:
    for engine in ENGINES:
        callers = {edge.client.name for edge in world.built.edges if edge.server == world.workload(engine) and isinstance(edge.client, Workload)}
        assert set(world.accounts(engine)) == callers - {engine, workload_name(engine)}, engine


def mounted_secrets(pod: Pod) -> dict[str, set[str]]:
    """The Secrets that a pod mounts, and the keys of each; no keys mean all."""
    found: dict[str, set[str]] = {}
    for volume in pod.spec["volumes"]:
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if "secret" in source:
                secret = source["secret"]
                keys = {item["key"] for item in secret.get("items", [])}
                found.setdefault(secret.get("secretName") or secret["name"], set()).update(keys)
    return found


def a_client_s_pods_mount_the_credential_of_each_of_its_edges_and_no_other(world: World) -> None:
    for pod in pods(world.graph):
        if pod.kind == "Deployment":
            engines = {edge.server.name for edge in world.edges_of(pod.name) if edge.server.name in ENGINES}
            assert set(mounted_secrets(pod)) == {f"{pod.name}-{engine}" for engine in engines}, pod


def a_mounted_credential_is_the_account_that_the_engine_knows(world: World) -> None:
    for pod in pods(world.graph):
        if pod.kind == "Deployment":
            for name, keys in mounted_secrets(pod).items():
                engine = name.removeprefix(f"{pod.name}-")
                data, account = world.graph.one("Secret", name)["stringData"], world.accounts(engine)[pod.name]
                assert keys == set(data), name
                if engine == "consul":
                    assert data == {"token": account["token"]}
                else:
                    assert data == {"username": account["login"], "password": account["password"]}
                    assert account["login"] == login(pod.name, world.settings.rotation)


def every_file_that_a_pod_mounts_of_a_secret_or_config_map_is_there(world: World) -> None:
    for pod in pods(world.graph):
        for name, keys in mounted_secrets(pod).items():
            assert keys <= set(world.graph.one("kubernetes:core/v1:Secret", name)["stringData"]), f"{pod}: {name}"
        named = [v["configMap"]["name"] for v in pod.spec["volumes"] if "configMap" in v]
        for name in named:
            assert world.graph.one("ConfigMap", name)["data"], f"{pod}: {name}"


def no_credential_has_two_owners(world: World) -> None:
    owners: dict[str, set[str]] = {}
    for pod in pods(world.graph):
        for name in mounted_secrets(pod):
            owners.setdefault(name, set()).add(f"{pod.namespace}/{pod.name}")
    assert {name: by for name, by in owners.items() if len(by) > 1} == {}


def no_two_clients_have_the_same_credential(world: World) -> None:
    for engine in ENGINES:
        secrets = [account.get("password") or account["token"] for account in world.accounts(engine).values()]
        assert len(set(secrets)) == len(secrets), engine


def what_a_client_may_touch_is_its_own(world: World) -> None:
    for engine in ("postgres", "redis", "rabbitmq"):
        for name, account in world.accounts(engine).items():
            section = world.section(name)[engine]
            match engine:
                case "postgres":
                    assert account["database"] == section["database"] == name.replace("-", "_")
                case "rabbitmq":
                    assert account["vhost"] == section["vhost"] == name
                case _:
                    assert [rule for rule in account["rules"] if rule[0] in "~&%"] == [f"~{name}:*"]
                    assert section["key_prefix"] == f"{name}:"


def only_the_platform_s_own_services_write_to_consul(world: World) -> None:
    writers = {name for name, account in world.accounts("consul").items() if "write" in json.dumps(account["rules"])}
    assert writers == set(PLATFORM_SERVICES)


def a_service_s_settings_have_a_section_for_each_of_its_edges_and_say_what_is_required(world: World) -> None:
    for service in world.built.services:
        edges = {edge.server.name: edge for edge in world.edges_of(service) if edge.server.name in ENGINES}
        sections = {name: section for name, section in world.section(service).items() if name in ENGINES}
        assert {name: section["required"] for name, section in sections.items()} == {name: edge.required for name, edge in edges.items()}, service
        for name, section in sections.items():
            where = section["address"] if name == "consul" else f"{section['host']}:{section['port']}"
            assert where.endswith(f"{name}.{world.namespace}.svc:{edges[name].port}"), service


def the_runtime_s_readiness_asks_exactly_the_engines_of_the_edges(world: World) -> None:
    for service in world.built.services:
        read = Settings(**world.section(service))
        asked = {check.name: required for check, required in runtime.checks(read, cast("ConsulClient", object()))}
        assert asked == {edge.server.name: edge.required for edge in world.edges_of(service) if edge.server.name in ENGINES}, service


def every_use_and_every_call_is_an_edge_and_there_is_no_other_edge(world: World) -> None:
    for name in world.built.services:
        entry = world.settings.services.get(name)
        uses = (*(entry.uses if entry else ()), *FOR_ALL)
        optional = {*entry.optional, *FOR_ALL} if entry else set[str]()
        calls = dict.fromkeys((*entry.calls, "registry")) if entry else {}
        ports = {**dict.fromkeys(PLATFORM_SERVICES, 8000), **{other: settings.port for other, settings in world.settings.services.items()}}
        expected = {(world.workload(kind), kind not in optional, Transport.OWN_TLS) for kind in uses}
        expected |= {(world.workload(called), False, Transport.PLAIN) for called in calls}
        found = [edge for edge in world.edges_of(name) if isinstance(edge.server, Workload)]
        assert {(edge.server, edge.required, edge.transport) for edge in found} == expected, name
        assert {edge.server.name: edge.port for edge in found if edge.transport is Transport.PLAIN} == {called: ports[called] for called in calls}


def nothing_is_sent_in_clear_text_without_a_reason(world: World) -> None:
    for edge in world.built.edges:
        assert (edge.transport is Transport.PLAIN) == bool(edge.reason.strip()), edge
        if edge.server.name in ENGINES:
            assert edge.transport is Transport.OWN_TLS, edge
    for service in world.built.services:
        for name, section in world.section(service).items():
            if name in ENGINES:
                assert section["ca"] == "/run/groundwork/ca.crt", service
                assert "://" not in json.dumps(section) or section["address"].startswith("https://"), service


def no_policy_lets_everybody_in_or_out(world: World) -> None:
    assert [rule for rule in allowed(world) if "0.0.0.0/0" in rule[3] or "::/0" in rule[3]] == []


def no_generated_value_stands_outside_of_a_secret(world: World) -> None:
    for resource in world.graph.kubernetes():
        if not resource.type.endswith(":Secret"):
            assert "generated-" not in json.dumps(resource.inputs), resource.name
            assert "private-" not in json.dumps(resource.inputs), resource.name


def the_quota_holds_what_the_parts_describe(world: World) -> None:
    assert int(world.graph.one("ResourceQuota", "platform")["spec.hard"]["pods"]) == world.built.demand.pods


THEOREMS: tuple[Callable[[World], None], ...] = (
    every_rule_is_an_edge_and_every_edge_a_rule_at_both_its_ends,
    a_policy_selects_exactly_the_pods_of_its_workload_and_governs_both_directions,
    a_service_selects_exactly_the_pods_of_its_own_workload,
    a_controller_selects_exactly_the_pods_that_it_makes,
    every_end_of_an_edge_is_a_workload_that_runs_and_listens_on_the_edge_s_port,
    an_account_is_an_edge_and_an_edge_to_an_engine_an_account,
    a_client_s_pods_mount_the_credential_of_each_of_its_edges_and_no_other,
    a_mounted_credential_is_the_account_that_the_engine_knows,
    every_file_that_a_pod_mounts_of_a_secret_or_config_map_is_there,
    no_credential_has_two_owners,
    no_two_clients_have_the_same_credential,
    what_a_client_may_touch_is_its_own,
    only_the_platform_s_own_services_write_to_consul,
    a_service_s_settings_have_a_section_for_each_of_its_edges_and_say_what_is_required,
    the_runtime_s_readiness_asks_exactly_the_engines_of_the_edges,
    every_use_and_every_call_is_an_edge_and_there_is_no_other_edge,
    nothing_is_sent_in_clear_text_without_a_reason,
    no_policy_lets_everybody_in_or_out,
    no_generated_value_stands_outside_of_a_secret,
    the_quota_holds_what_the_parts_describe,
)


@pytest.mark.parametrize("stack", SHIPPED)
@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.__name__)
def test_it_holds_for_the_shipped_stacks(theorem: Callable[[World], None], stack: str) -> None:
    theorem(world_of(stack))


# --- stacks that nobody has written ---

NAMES = ("orders", "billing", "a", "user-service", "orders-2", "postgres2", "x" * 40)


@st.composite
def stack_files(draw: st.DrawFn) -> dict[str, object]:
    """What a stack file may say: any services with any uses, calls, replicas and ports."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    services: dict[str, object] = {}
    for name in names:
        uses = draw(st.lists(st.sampled_from(USABLE), unique=True))
        services[name] = {
            "command": ["-m", "service"],
            "uses": uses,
            "optional": draw(st.lists(st.sampled_from(uses), unique=True)) if uses else [],
            "calls": draw(st.lists(st.sampled_from([n for n in (*names, *PLATFORM_SERVICES) if n != name]), unique=True)),
            "replicas": draw(st.integers(1, 3)),
            "port": draw(st.sampled_from((8000, 8080, 1024))),
        }
    return {
        "profile": "dev",
        "rotation": draw(st.integers(1, 12)),
        "cluster": {"context": "kind", "operator_cidrs": draw(st.sampled_from(([], ["10.1.0.0/16"], ["10.1.0.0/16", "fd00::/64"])))},
        "images": {"runtime": "localhost/groundwork/runtime:1"},
        "consul": {"servers": draw(st.sampled_from((1, 3)))},
        "registry": {"replicas": draw(st.integers(1, 2))},
        "services": services,
    }


CLUSTERS: tuple[ClusterFacts, ...] = (
    assumed(),
    replace(assumed(), api_servers=(Address("10.96.0.1", 443), Address("192.0.2.7", 6443), Address("fd00::7", 6443)), network_plugin="cilium"),
    replace(assumed(), dns=DnsServers("openshift-dns", (("dns", "default"),), (5353,), ())),
    replace(assumed(), dns=DnsServers("kube-system", (), (53,), ("169.254.20.10/32",), cache_labels=(("k8s-app", "node-local-dns"),))),
)


# One world for all theorems, because a world costs more than they do.
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(raw=stack_files(), facts=st.sampled_from(CLUSTERS))
def test_all_of_them_hold_for_any_stack(raw: dict[str, object], facts: ClusterFacts) -> None:
    chosen = stackfile.parse(raw, "random")
    world = World("random", chosen, *planned("random", chosen, facts))
    for theorem in THEOREMS:
        theorem(world)


@pytest.mark.parametrize("stack", SHIPPED)
def test_a_typo_in_the_name_of_any_workload_is_refused(stack: str) -> None:
    world = world_of(stack)
    running = tuple({world.workload(pod.name) for pod in pods(world.graph)})
    for edge in world.built.edges:
        for end, other in (("client", edge.client), ("server", edge.server)):
            if isinstance(other, Workload):
                wrong = replace(edge, **{end: replace(other, name=f"{other.name}s")})
                with pytest.raises(UnknownWorkload, match=f"{other.name}s, which no part runs"):
                    together([Description(running, (wrong,))])
