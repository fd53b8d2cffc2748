"""`make plan`: its whole time, and what one more service costs as a stack grows."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from statistics import median

from bench.result import Result
from components import network, service
from components.lib.contracts import Edge, Placement, ServerTls
from components.lib.description import together
from components.network import NetworkArgs
from stacks import edges, services
from stacks.catalog import ENGINES
from stacks.cluster.effective import effective
from stacks.cluster.facts import assumed
from stacks.kind import Given, part
from stacks.services import Shared
from stacks.settings import ServiceSettings, StackSettings
from stacks.stackfile import read

AT = Placement(stack="bench", namespace="bench")
PLAN_SECONDS = 3.0
RUNS = 5


def python(*words: str) -> float:
    """Seconds of a Python process that may keep what it compiled, as it may on a developer's machine."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def whole_plan() -> float:
    """Seconds of `python -m stacks.plan --stack dev`, imports included."""
    return python("-m", "stacks.plan", "--stack", "dev")


def bare_interpreter() -> float:
    """Seconds of a Python that imports the two SDKs and touches the API groups that the plan uses."""
    return python(
        "-c", "import pulumi, pulumi_random, pulumi_tls; from pulumi_kubernetes import apps, batch, core, meta, networking, policy; core.v1.Pod"
    )


def with_services(count: int) -> StackSettings:
    """Stack `dev` with `count` services."""
    service = ServiceSettings(command=("-m", "demo.user_service"), uses=("postgres", "redis", "rabbitmq"))
    return read("dev").model_copy(update={"services": {f"service-{number}": service for number in range(count)}})


def described(settings: StackSettings) -> tuple[Edge, ...]:
    """The edges of a stack, as its parts describe them."""
    tls = {kind: ServerTls(f"{kind}-tls", "groundwork-ca", "") for kind in ENGINES}
    engines = {kind.name: part(kind, settings, Given(AT, "", tls, {})) for kind in ENGINES.values()}
    cluster = effective(settings.cluster, assumed())
    http = services.arguments(settings, Shared(AT, "", "groundwork-ca", services.issuer(cluster, AT), settings.profile), engines)
    whole = together([*(engine.describe() for engine in engines.values()), *(service.describe(name, args) for name, args in http.items())])
    return (*whole.edges, *edges.of_names(cluster, edges.clients(whole.edges)), *edges.of_token_keys(cluster, [AT.workload(name) for name in http]))


def seconds_per_service(count: int) -> float:
    """What the edges and the policies of one service cost in a stack of `count`, without the garbage collector, which counts all live objects."""
    settings = with_services(count)
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        network.policies(NetworkArgs(AT, described(settings)))
        return (time.perf_counter() - began) / count
    finally:
        gc.enable()


def run() -> list[Result]:
    """Measures both, after a first turn of each that nobody counts."""
    _ = whole_plan(), bare_interpreter(), seconds_per_service(20)
    pairs = [(whole_plan(), bare_interpreter()) for _ in range(RUNS)]
    ours, peer = median(a for a, _ in pairs), median(b for _, b in pairs)
    small = median(seconds_per_service(20) for _ in range(RUNS * 4))
    large = median(seconds_per_service(1000) for _ in range(RUNS))
    return [
        Result(
            name="plan of stack dev, whole process",
            ours=ours,
            peer=peer,
            peer_name="the SDKs' imports alone",
            unit="s",
            ratio=ours / peer,
            target=f"<= {PLAN_SECONDS} s",
            holds=ours <= PLAN_SECONDS,
        ),
        Result(
            name="edges and policies per service, 1,000 services",
            ours=large * 1e6,
            peer=small * 1e6,
            peer_name="20 services",
            unit="us",
            ratio=large / small,
            target="<= 1.5x",
            holds=large / small <= 1.5,
        ),
    ]
