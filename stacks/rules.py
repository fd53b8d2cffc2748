"""What must hold between the settings of a stack. The components know their own rules: they are asked, with nothing registered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pydantic import TypeAdapter, ValidationError

from components.certificates import CA_CONFIG_MAP, CertificatesArgs
from components.lib import accounts
from components.lib.contracts import Placement, ServerTls
from components.lib.problems import BadArguments
from components.namespace import DEFAULT_DENY
from components.operator_account import NAME as OPERATOR
from components.service import ServiceArgs
from stacks.catalog import ENGINES
from stacks.kind import Given
from stacks.settings import PLATFORM_SERVICES, StackSettings
from stacks.values import LOCAL, DnsLabel

EVERYBODY = {"0.0.0.0/0", "::/0"}
RESERVED = accounts.RESERVED | ENGINES.keys() | {OPERATOR, DEFAULT_DENY, *PLATFORM_SERVICES}
IN_CLUSTER = "https://kubernetes.default.svc"
_LABEL = TypeAdapter[str](DnsLabel)


def problems(stack: str, settings: StackSettings) -> list[str]:
    """Everything that is wrong with the settings of `stack`: each begins with its key and ends with the fix."""
    found = [*names(stack, settings), *services(stack, settings), *engines(stack, settings), *cluster(settings)]
    if settings.profile == "prod":
        found += production(settings)
    return list(dict.fromkeys(found))


def refused(ask: Callable[[], object]) -> tuple[str, ...]:
    """What a component says of arguments that cannot work."""
    try:
        ask()
    except BadArguments as error:
        return error.problems
    return ()


def names(stack: str, settings: StackSettings) -> Iterator[str]:
    """The namespace, which is made from the stack's name unless it is set, and the services' names."""
    namespace = settings.namespace_of(stack)
    try:
        _LABEL.validate_python(namespace)
    except ValidationError:
        yield (
            f"namespace = {namespace!r}, from the stack's name {stack!r}, cannot be a namespace: it may have at most 63 of a-z, 0-9 and -; "
            "name the stack so, or set one"
        )
    for name in settings.services:
        engine = next((engine for engine in ENGINES if name.startswith(f"{engine}-")), None)
        if name in RESERVED:
            yield f"services.{name} has the name of a part of the platform: choose another one"
        elif engine is not None:
            yield f"services.{name} begins with {engine}-, as the objects of that engine do: choose another name"


def services(stack: str, settings: StackSettings) -> Iterator[str]:
    """What the services say of each other, and what their component says of them."""
    at = Placement(stack, settings.namespace_of(stack))
    for name, entry in settings.services.items():
        for called, count in Counter(entry.calls).items():
            if called not in settings.services and called not in PLATFORM_SERVICES:
                yield f"services.{name}.calls names {called}, which is no service of this stack: add it, or remove the call"
            if count > 1:
                yield f"services.{name}.calls names {called} {count} times: keep one"
        for problem in refused(
            lambda entry=entry: ServiceArgs(at, "", entry.command, settings.profile, CA_CONFIG_MAP, entry.replicas, port=entry.port)
        ):
            yield f"services.{name}.{problem}"


def engines(stack: str, settings: StackSettings) -> Iterator[str]:
    """What the engines' components and the certificates say of the stack."""
    at = Placement(stack, settings.namespace_of(stack))
    tls = {kind: ServerTls(f"{kind}-tls", CA_CONFIG_MAP, "") for kind in ENGINES}
    given = Given(at, "", tls, {})
    for kind in ENGINES.values():
        yield from refused(lambda kind=kind: kind.arguments(settings, given))
    chosen = settings.certificates
    yield from refused(lambda: CertificatesArgs(at, (), chosen.authority, chosen.trusted))


def cluster(settings: StackSettings) -> Iterator[str]:
    """What is said of the cluster in the place of what it says itself."""
    url = settings.cluster.jwks_url
    if url is not None and not url.startswith(IN_CLUSTER) and not settings.cluster.jwks_cidrs:
        yield (
            f"cluster.jwks_url = {url!r} is outside of the cluster, where services may not call: "
            "name its addresses under cluster.jwks_cidrs, or leave both out to take the keys from the API server"
        )


def production(settings: StackSettings) -> Iterator[str]:
    """What only a development stack may do."""
    if not settings.retain_data:
        yield "retain_data is false in profile prod, where a destroy would delete the databases: set it to true"
    yield from (
        f"cluster.operator_cidrs has {cidr} in profile prod, which lets everybody in: name the operators' own addresses"
        for cidr in settings.cluster.operator_cidrs
        if cidr in EVERYBODY
    )
    for key in ("issuer", "jwks_url"):
        url: str | None = getattr(settings.cluster, key)
        if url is not None and not url.startswith("https://"):
            yield f"cluster.{key} = {url!r} in profile prod is not encrypted: whoever changes it on the way lets anybody in; use https"
    if settings.images.build is not None:
        yield (
            "images.build builds a new image in profile prod, where what was tested should run: "
            "set images.runtime to the digest that a tested stack deployed (its output runtime_image)"
        )
    yield from local_images(settings)


def local_images(settings: StackSettings) -> Iterator[str]:
    """Images that only one node has."""
    images: Iterable[tuple[str, str | None]] = (
        *((f"images.{kind}", settings.images.of(kind)) for kind in ENGINES),
        ("images.runtime", settings.images.runtime),
        *((f"services.{name}.image", entry.image) for name, entry in settings.services.items()),
    )
    for key, image in images:
        if image is not None and image.startswith(LOCAL):
            yield f"{key} = {image!r} in profile prod is on one machine only: push it to a registry that every node can pull from"
