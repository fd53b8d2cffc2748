"""The node's own network: a namespace joined to the host by one pair of interfaces, and the host's routes into it.

    host 10.99.0.1 (gw-host) --- 10.99.0.2 (eth0) node --- pods 10.244.0.0/24 (cni0), Services 10.96.0.0/16

Everything that Kubernetes does to iptables happens inside the namespace and vanishes with it. Nothing is forwarded to other machines.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.errors import SandboxError
from sandbox.progress import Step

HOST_INTERFACE = "gw-host"
NODE_INTERFACE = "eth0"
HOST_ADDRESS = "10.99.0.1"
NODE_ADDRESS = "10.99.0.2"
LINK = ipaddress.IPv4Network("10.99.0.0/30")
SERVICES = ipaddress.IPv4Network("10.96.0.0/16")
PODS = ipaddress.IPv4Network("10.244.0.0/16")
NODE_PODS = ipaddress.IPv4Network("10.244.0.0/24")
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"
API_PORT = 6443
DIRECT = (NODE_ADDRESS, str(SERVICES), str(PODS))  # what no proxy can reach, in the words of NO_PROXY


@dataclass(frozen=True)
class Route:
    """A route of the host."""

    destination: ipaddress.IPv4Network
    device: str


def host_routes() -> tuple[Route, ...]:
    """The host's IPv4 routes, without the default one."""
    done = subprocess.run(["ip", "-j", "-4", "route"], capture_output=True, text=True, timeout=10, check=True)
    return parse_routes(done.stdout)


def parse_routes(text: str) -> tuple[Route, ...]:
    """The output of `ip -j -4 route`."""
    return tuple(Route(ipaddress.IPv4Network(entry["dst"]), entry.get("dev", "")) for entry in json.loads(text or "[]") if entry["dst"] != "default")


def conflicts(routes: Sequence[Route]) -> tuple[str, ...]:
    """The sandbox's networks that the host already routes elsewhere."""
    return tuple(
        f"{route.destination} by {route.device or 'no device'}"
        for route in routes
        if route.device != HOST_INTERFACE and any(route.destination.overlaps(network) for network in (LINK, SERVICES, PODS))
    )


def commands(holder: int) -> tuple[tuple[str, ...], ...]:
    """What joins the namespace of process `holder` to the host, once the pair of interfaces is there. All of it may be repeated."""
    inside = ("nsenter", "-t", str(holder), "-n")
    return (
        ("ip", "address", "replace", f"{HOST_ADDRESS}/30", "dev", HOST_INTERFACE),
        ("ip", "link", "set", HOST_INTERFACE, "up"),
        (*inside, "ip", "address", "replace", f"{NODE_ADDRESS}/30", "dev", NODE_INTERFACE),
        (*inside, "ip", "link", "set", NODE_INTERFACE, "up"),
        (*inside, "ip", "link", "set", "lo", "up"),
        # Without this a packet to anywhere else would go to the host, which might forward it.
        (*inside, "ip", "route", "replace", "unreachable", "default"),
        # The API server calls webhooks by their ClusterIP. kube-proxy rewrites that only after the kernel has found a route for it.
        (*inside, "ip", "route", "replace", str(SERVICES), "dev", NODE_INTERFACE, "src", NODE_ADDRESS),
        (*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"),
        ("ip", "route", "replace", str(SERVICES), "via", NODE_ADDRESS, "dev", HOST_INTERFACE),
        ("ip", "route", "replace", str(PODS), "via", NODE_ADDRESS, "dev", HOST_INTERFACE),
    )


def connect(holder: int, step: Step) -> None:
    """Joins the namespace of process `holder` to the host."""
    fix = "see the log; `make down` removes what an interrupted run left behind"
    if subprocess.run(["ip", "link", "show", HOST_INTERFACE], capture_output=True, timeout=10, check=False).returncode != 0:
        step.run(["ip", "link", "add", HOST_INTERFACE, "type", "veth", "peer", "name", NODE_INTERFACE, "netns", str(holder)], fix=fix, timeout=30)
    for argv in commands(holder):
        step.run(argv, fix=fix, timeout=30)
    # Bridged packets must pass iptables, or NetworkPolicies see none between pods; a kernel without the switch always does that.
    bridge = ("nsenter", "-t", str(holder), "-n", "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    subprocess.run(bridge, capture_output=True, timeout=10, check=False)


def disconnect() -> None:
    """Removes the host's interface, and with it its routes. Does nothing where there is none."""
    subprocess.run(["ip", "link", "delete", HOST_INTERFACE], capture_output=True, timeout=30, check=False)


def refuse_conflicts() -> None:
    """Raises SandboxError where the host uses the sandbox's addresses for something else."""
    if taken := conflicts(host_routes()):
        raise SandboxError(
            f"this machine already routes addresses that the sandbox needs: {', '.join(taken)}",
            fix="stop what uses them (another cluster, a VPN); the sandbox's addresses are fixed",
        )
