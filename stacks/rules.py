"""What must hold between the settings of a stack. The components know their own rules: they are asked, with nothing registered."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from components.certificates import CA_CONFIG_MAP, CertificatesArgs
from components.lib import accounts
from components.lib.contracts import Placement, ServerTls
from components.lib.problems import BadArguments, Problem
from components.namespace import DEFAULT_DENY, NamespaceArgs
from components.operator_account import NAME as OPERATOR
from components.service import ServiceArgs
from stacks.catalog import ENGINES, FOR_ALL, USABLE
from stacks.cluster.changes import version
from stacks.cluster.effective import is_in_cluster
from stacks.kind import Given
from stacks.settings import PLATFORM_SERVICES, ServiceSettings, StackSettings
from stacks.values import LOCAL

# A service gives its name to a ServiceAccount, a Service, a Deployment, a budget and a NetworkPolicy, and begins those of its ConfigMap and
# Secrets. tests/unit/test_rules.py tries the name of every object that a stack has.
RESERVED = accounts.RESERVED | ENGINES.keys() | {OPERATOR, DEFAULT_DENY, *PLATFORM_SERVICES}
# The widest block of public addresses that one organisation has been given: /8 of IPv4 (such as 17.0.0.0/8), /19 of IPv6. A wider one is
# everybody, or half of everybody.
WIDEST = {4: 8, 6: 19}
# Blocks as wide as that which the Internet does not carry: RFC 1918 and 4193.
PRIVATE = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "fc00::/7")))
_ONE_MACHINE = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?/")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def problems(stack: str, settings: StackSettings) -> list[Problem]:
    """Everything that is wrong with the settings of `stack`: keys are those of the stack file, but for `stack`, its name."""
    found = [*names(stack, settings), *images(settings), *services(stack, settings), *cluster(settings)]
    known = {problem.key for problem in found}
    # A name that is taken is taken in every engine: once is enough.
    found += [problem for problem in components(stack, settings) if problem.client is None or problem.key not in known]
    if settings.profile == "prod":
        found += production(settings)
    return list(dict.fromkeys(found))


def refused(ask: Callable[[], object]) -> tuple[Problem, ...]:
    """What a component says of arguments that cannot work."""
    try:
        ask()
    except BadArguments as error:
        return error.problems
    return ()


def names(stack: str, settings: StackSettings) -> Iterator[Problem]:
    """The stack, the namespace, which is made from the stack's name unless it is set, and the services."""
    yield from refused(partial(NamespaceArgs, settings.namespace_of(stack), stack, settings.cluster.pod_security_version))
    for name in settings.services:
        engine = next((engine for engine in ENGINES if name.startswith(f"{engine}-")), None)
        if name in RESERVED:
            yield Problem(f"services.{name}", "the platform has a part of this name: choose another one")
        elif engine is not None:
            yield Problem(f"services.{name}", f"begins with {engine}-, as the objects of that engine do: choose another name")


def images(settings: StackSettings) -> Iterator[Problem]:
    """Where the platform's own image comes from, and whether the engines' are exact."""
    runtime, build = settings.images.runtime, settings.images.build
    if runtime is not None and build is not None:
        yield Problem("images.build", "runtime and build are both set: keep `runtime` to deploy a given image, or `build` to build and push one")
    if runtime is None and build is None:
        yield Problem(
            "images.runtime", "neither runtime nor build is set: give `runtime` a digest, or `images.build.repository` a repository to push to"
        )
    if runtime is not None and "@sha256:" not in runtime and not runtime.startswith(LOCAL):
        yield Problem("images.runtime", "runtime has no digest: write NAME@sha256:..., so that what runs is what was tested", runtime)
    for kind in ENGINES.values():
        image = settings.images.of(kind.name)
        given, exact = version(image), version(kind.image.reference)
        if "@" not in image and not image.startswith(LOCAL) and given and exact and len(given) < len(exact):
            shown = ".".join(map(str, exact))
            yield Problem(f"images.{kind.name}", f"names a moving image: write an exact version, such as {shown}, or a digest", image)


def services(stack: str, settings: StackSettings) -> Iterator[Problem]:
    """What the services say of engines and of each other, and what their component says of them."""
    at = Placement(stack, settings.namespace_of(stack))
    for name, entry in settings.services.items():
        ask = partial(ServiceArgs, at, "", entry.command, settings.profile, CA_CONFIG_MAP, entry.replicas, port=entry.port)
        for problem in (*uses(entry), *calls(entry, settings), *refused(ask)):
            yield Problem(f"services.{name}.{problem.key}", problem.what, problem.value)


def uses(entry: ServiceSettings) -> Iterator[Problem]:
    """The engines of a service."""
    for engine, count in Counter(entry.uses).items():
        if engine in FOR_ALL:
            yield Problem("uses", f"names {engine}, which is there for every service: leave it out")
        elif engine not in USABLE:
            yield Problem("uses", f"names {engine}, which is no engine: choose from {', '.join(USABLE)}")
        if count > 1:
            yield Problem("uses", f"names {engine} {count} times: keep one")
    for engine, count in Counter(entry.optional).items():
        if engine not in entry.uses:
            yield Problem("optional", f"names {engine}, which `uses` does not: add it there, or remove it here")
        if count > 1:
            yield Problem("optional", f"names {engine} {count} times: keep one")


def calls(entry: ServiceSettings, settings: StackSettings) -> Iterator[Problem]:
    """The other services that a service calls."""
    for called, count in Counter(entry.calls).items():
        if called in ENGINES:
            yield Problem("calls", f"names {called}, which is an engine: move it to `uses`" if called in USABLE else f"names {called}: leave it out")
        elif called not in settings.services and called not in PLATFORM_SERVICES:
            yield Problem("calls", f"names {called}, which is no service of this stack: add it, or remove the call")
        if count > 1:
            yield Problem("calls", f"names {called} {count} times: keep one")


def components(stack: str, settings: StackSettings) -> Iterator[Problem]:
    """What the engines' components and the certificates say of the stack."""
    at = Placement(stack, settings.namespace_of(stack))
    tls = {kind: ServerTls(f"{kind}-tls", CA_CONFIG_MAP, "") for kind in ENGINES}
    given = Given(at, "", tls, {})
    for kind in ENGINES.values():
        for problem in refused(partial(kind.arguments, settings, given)):
            yield problem if problem.client is None else Problem(f"services.{problem.client}", problem.what, client=problem.client)
    chosen = settings.certificates
    yield from refused(partial(CertificatesArgs, at, (), chosen.authority, chosen.trusted))


def cluster(settings: StackSettings) -> Iterator[Problem]:
    """What is said of the cluster in the place of what it says itself."""
    chosen = settings.cluster
    if chosen.jwks_url is not None and not is_in_cluster(chosen.jwks_url, chosen.domain) and not chosen.jwks_cidrs:
        yield Problem(
            "cluster.jwks_url",
            "is outside of the cluster, where services may not call: name its addresses under cluster.jwks_cidrs, "
            "or leave both out to take the keys from the API server",
            chosen.jwks_url,
        )
    if chosen.dns is not None and not chosen.dns.labels and not chosen.dns.cidrs:
        yield Problem("cluster.dns", "names neither labels nor cidrs, so that nobody could look up a name: add one of them, or leave it out")


def production(settings: StackSettings) -> Iterator[Problem]:
    """What only a development stack may do."""
    if not settings.retain_data:
        yield Problem("retain_data", "is false in profile prod, where a destroy would delete the databases: set it to true")
    for block in too_wide(settings.cluster.operator_cidrs):
        yield Problem("cluster.operator_cidrs", f"lets in {block} in profile prod, which is nearly everybody: name the operators' own addresses")
    for key in ("issuer", "jwks_url"):
        url: str | None = getattr(settings.cluster, key)
        if url is not None and not url.startswith("https://"):
            yield Problem(f"cluster.{key}", "is not encrypted, and whoever changes it on the way lets anybody in: profile prod wants https", url)
    if settings.images.build is not None:
        yield Problem(
            "images.build",
            "builds a new image in profile prod, where what was tested should run: "
            "set images.runtime to the digest that a tested stack deployed (its output runtime_image)",
        )
    yield from local_images(settings)


def too_wide(cidrs: Iterable[str]) -> list[str]:
    """The blocks that `cidrs` add up to and that nobody owns: two halves of the Internet are the Internet."""
    blocks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    public = [block for block in blocks if not any(within(block, private) for private in PRIVATE)]
    four = ipaddress.collapse_addresses(block for block in public if isinstance(block, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(block for block in public if isinstance(block, ipaddress.IPv6Network))
    return [str(block) for block in (*four, *six) if block.prefixlen < WIDEST[block.version]]


def within(block: Network, other: Network) -> bool:
    """Whether all addresses of `block` are in `other`."""
    return block.version == other.version and block[0] in other and block[-1] in other


def local_images(settings: StackSettings) -> Iterator[Problem]:
    """Images that only one machine has."""
    named: Iterable[tuple[str, str | None]] = (
        *((f"images.{kind}", settings.images.of(kind)) for kind in ENGINES),
        ("images.runtime", settings.images.runtime),
        *((f"services.{name}.image", entry.image) for name, entry in settings.services.items()),
    )
    for key, image in named:
        if image is not None and _ONE_MACHINE.match(image):
            yield Problem(key, "is on one machine only, in profile prod: push it to a registry that every node can pull from", image)
