"""The node's addresses, and the machine's own."""

import json

from sandbox import network
from sandbox.network import Route


def routes(*entries: tuple[str, str]) -> tuple[Route, ...]:
    return network.parse_routes(json.dumps([{"dst": destination, "dev": device} for destination, device in entries]))


def test_a_plain_machine_has_no_conflict() -> None:
    assert network.conflicts(routes(("default", "eth0"), ("192.168.1.0/24", "eth0"), ("172.17.0.0/16", "docker0"))) == ()


def test_a_network_that_contains_or_is_contained_in_ours_is_a_conflict() -> None:
    assert network.conflicts(routes(("10.96.0.0/12", "kube"))) == ("10.96.0.0/12 by kube",)
    assert network.conflicts(routes(("10.244.3.0/24", "cni0"))) == ("10.244.3.0/24 by cni0",)


def test_the_sandboxs_own_routes_are_no_conflict() -> None:
    own = routes(("10.99.0.0/30", network.HOST_INTERFACE), ("10.96.0.0/16", network.HOST_INTERFACE))
    assert network.conflicts(own) == ()


def test_a_machine_without_routes_is_understood() -> None:
    assert network.parse_routes("") == ()


def test_host_and_node_have_routes_to_services_and_the_node_none_to_the_world() -> None:
    commands = [" ".join(argv) for argv in network.commands(holder=42)]
    assert "ip route replace 10.96.0.0/16 via 10.99.0.2 dev gw-host" in commands
    assert "ip route replace 10.244.0.0/16 via 10.99.0.2 dev gw-host" in commands
    assert "nsenter -t 42 -n ip route replace unreachable default" in commands
    assert "nsenter -t 42 -n ip route replace 10.96.0.0/16 dev eth0 src 10.99.0.2" in commands
    assert not any("default via" in command for command in commands)


def test_every_change_may_be_repeated() -> None:
    assert not any("add" in argv for argv in network.commands(holder=42))


def test_the_networks_do_not_overlap() -> None:
    assert not network.SERVICES.overlaps(network.PODS)
    assert not network.LINK.overlaps(network.SERVICES)
    assert network.NODE_PODS.subnet_of(network.PODS)
