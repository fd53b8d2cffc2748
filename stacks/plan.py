"""`make plan STACK=dev`: what a stack would create, from the program itself, with no cluster, no engine and no account.

It runs the real program against a recording engine, so that it cannot differ from what `pulumi up` registers. `--picture` prints the
stack's edges as a Mermaid diagram instead: the picture in the README.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import cast

import pulumi

from components import certificates
from components.lib import accounts
from components.lib.contracts import Edge, Outside, Transport, Workload
from components.lib.description import Demand
from stacks import platform
from stacks.catalog import ENGINES
from stacks.cluster.facts import QUESTIONS, ClusterFacts, assumed
from stacks.recording import Graph, Registered, record
from stacks.settings import StackSettings
from stacks.stackfile import read


def planned(stack: str, settings: StackSettings, facts: ClusterFacts | None = None) -> tuple[Graph, platform.Built]:
    """What the program would register on a cluster, by default an assumed one, and what it knows of it."""
    built: list[platform.Built] = []
    graph = record(lambda: built.append(platform.build(stack, settings, facts or assumed())), stack=stack)
    return graph, built[0]


def size(resource: Registered) -> str:
    """Replicas, requests, volume and image of a workload; nothing for other kinds."""
    spec = cast("dict[str, object]", resource.inputs.get("spec") or {})
    if "template" not in spec:
        return ""
    container = cast("dict[str, dict[str, dict[str, str]]]", resource["spec.template.spec.containers.0"])
    requests = container["resources"]["requests"]
    claims = cast("list[object]", spec.get("volumeClaimTemplates") or [])
    volume = f", volume {resource['spec.volumeClaimTemplates.0.spec.resources.requests.storage']}" if claims else ""
    replicas = int(cast("float", spec.get("replicas", 1)))
    return f"{replicas} x (cpu {requests['cpu']}, memory {requests['memory']}{volume})  {str(container['image']).partition('@')[0]}"


def tree(graph: Graph) -> Iterator[str]:
    """One line for each component and each of its resources."""
    children: dict[str, list[Registered]] = {}
    for resource in graph.resources:
        children.setdefault(resource.parent, []).append(resource)
    components = graph.components()
    roots = [r for r in graph.resources if r.parent not in {c.urn for c in components}]
    for root in roots:
        kind = root.type.rpartition(":")[2]
        yield f"  {root.name}  ({kind})" if root in components else f"  {root.name}  {kind}"
        for child in sorted(children.get(root.urn, []), key=lambda r: (r.type, r.name)):
            yield f"    {child.type.rpartition(':')[2]:<22}{child.object_name or child.name:<36}{size(child)}".rstrip()


def edge_lines(edges: Iterable[Edge]) -> Iterator[str]:
    """One line for each edge that is not a name look-up, in order of client and server, and the reasons of those that are plain."""
    shown = [edge for edge in edges if not is_look_up(edge)]
    for edge in sorted(shown, key=lambda e: (e.client.name, e.server.name, e.port, e.protocol)):
        need = "" if edge.required else ", works without"
        yield f"  {edge.client.name:<22} -> {edge.server.name + ':' + str(edge.port) + '/' + edge.protocol:<26}{edge.transport}{need}"
    for reason in sorted({edge.reason for edge in edges if edge.reason}):
        yield f"  plain: {reason}"


def is_look_up(edge: Edge) -> bool:
    """Whether an edge is for names."""
    return edge.server.name.startswith("dns")


def picture(edges: Iterable[Edge]) -> str:
    """The edges as a Mermaid diagram, account Jobs, name look-ups and the API server left out for the eye's sake."""
    lines: list[str] = []
    for edge in edges:
        client, server = edge.client, edge.server
        if not (isinstance(client, Workload) and isinstance(server, Workload)) or client == server:
            continue
        if client.name in {accounts.workload_name(engine) for engine in ENGINES}:
            continue
        arrow = "-.->|HTTP|" if edge.transport is Transport.PLAIN else f"-->|{edge.transport}|"
        lines.append(f"  {client.name} {arrow} {shape(server)}")
    return "\n".join(["flowchart LR", *sorted(set(lines))])


def shape(peer: object) -> str:
    """A node of the picture: engines as cylinders, services as boxes."""
    name = peer.name if isinstance(peer, Workload | Outside) else str(peer)
    return f"{name}[({name})]" if name in ENGINES else name


def totals(demand: Demand) -> str:
    """The most that the stack asks of the cluster, as its quota says."""
    return (
        f"{demand.pods} pods, cpu {demand.sum('cpu_m') / 1000:.2f} (limit {demand.sum('cpu_limit_m') / 1000:.2f}), "
        f"memory {demand.sum('memory_mib') / 1024:.2f} GiB, volumes {demand.storage_gib} GiB in {demand.claims} claims"
    )


def support(today: date) -> Iterator[str]:
    """Days left for everything that has a published end."""
    for kind in ENGINES.values():
        if kind.image.end_of_support is not None:
            yield f"  {kind.name:<10} {kind.image.reference}: {(kind.image.end_of_support - today).days} days of support left"
    leaf, renew = certificates.LEAF_HOURS // 24, certificates.LEAF_RENEWAL_HOURS // 24
    yield f"  certificates: issued now they have {leaf} days left; any `pulumi up` in their last {renew} days renews them"


def report(stack: str, settings: StackSettings) -> Iterator[str]:
    """The whole plan, line by line."""
    graph, built = planned(stack, settings)
    yield f"stack {stack}: profile {settings.profile}, namespace {settings.namespace_of(stack)}, context {settings.cluster.context}"
    yield "\nWhat it would create:"
    yield from tree(graph)
    yield "\nWho talks to whom (all of them may look up names):"
    yield from edge_lines(built.edges)
    yield "\nTime left:"
    yield from support(datetime.now(UTC).date())
    yield "\nA plan asks no cluster. `pulumi up` asks it for, and refuses what does not fit:"
    yield from (f"  {question}" for question in QUESTIONS)
    yield f"\nAt most, rolling updates included: {totals(built.demand)}"
    yield f"{len(graph.resources)} resources in {len(graph.components())} components. Next: pulumi up --stack {stack}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m stacks.plan", description="What a stack would create, without a cluster.")
    parser.add_argument("--stack", default="dev")
    parser.add_argument("--picture", action="store_true", help="print the edges as a Mermaid diagram")
    parser.add_argument("--json", action="store_true", help="print the registered resources as JSON")
    options = parser.parse_args(arguments)
    try:
        settings = read(options.stack)
        if options.picture:
            print(picture(planned(options.stack, settings)[1].edges))
        elif options.json:
            graph, _ = planned(options.stack, settings)
            print(json.dumps([{"type": r.type, "name": r.name, "object": r.object_name} for r in graph.resources], indent=1))
        else:
            for line in report(options.stack, settings):
                print(line)
    except pulumi.RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
