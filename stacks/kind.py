"""What a kind of engine is to a stack: an entry of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypedDict, TypeVar

import pulumi
from pulumi_kubernetes import Provider

from components.lib.contracts import Placement, ServerTls, Use
from components.lib.description import Description
from components.lib.engine import Engine, EngineArgs, Found
from components.lib.versions import Image
from components.lib.workload import Resources
from stacks.values import EngineSettings

if TYPE_CHECKING:
    from stacks.settings import StackSettings

Args = TypeVar("Args", bound=EngineArgs)
Taken_contra = TypeVar("Taken_contra", bound=EngineArgs, contravariant=True)


class CommonArgs(TypedDict):
    """The arguments that every engine has."""

    at: Placement
    image: str
    accounts_image: pulumi.Input[str]
    tls: ServerTls
    resources: Resources
    storage_gib: int
    rotation: int
    retain_data: bool
    found: Found


@dataclass(frozen=True)
class Given:
    """What the engines are given by the rest of the stack: where they go, the image of their accounts' program, certificates by server,
    and what the cluster already has of each.
    """

    at: Placement
    accounts_image: pulumi.Input[str]
    tls: Mapping[str, ServerTls]
    found: Mapping[str, Found]

    def common(self, settings: StackSettings, kind: str) -> CommonArgs:
        """The arguments of engine `kind` that are the same for every engine."""
        section = settings.engine(kind)
        return CommonArgs(
            at=self.at,
            image=settings.images.of(kind),
            accounts_image=self.accounts_image,
            tls=self.tls[kind],
            resources=section.resources.resources(),
            storage_gib=section.storage_gib,
            rotation=settings.rotation,
            retain_data=settings.retain_data,
            found=self.found.get(kind, Found()),
        )


class Build(Protocol[Taken_contra]):
    """A component's class."""

    def __call__(self, name: str, args: Taken_contra, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> Engine:
        """Registers the engine."""
        ...


@dataclass(frozen=True)
class Kind(Generic[Args]):
    """A kind of engine.

    `name` is its section in stack files and in settings.json, its objects and its Service. `section` is what a stack file may say of it,
    `arguments` makes of a whole stack's settings what `build` and `describe` take; `use` is one service's use of it. With `for_all`, every
    service uses it unasked, and it is never in a service's `uses`. `dns_names` are further names in its certificate.
    """

    name: str
    section: type[EngineSettings]
    image: Image
    arguments: Callable[[StackSettings, Given], Args]
    describe: Callable[[str, Args], Description]
    build: Build[Args]
    use: Callable[[StackSettings, Args, str, bool], Use]
    servers: Callable[[EngineSettings], int] = lambda _section: 1
    for_all: bool = False
    dns_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """An engine of one stack: its kind with its arguments, before it is registered."""

    name: str
    describe: Callable[[], Description]
    build: Callable[[Provider, pulumi.ResourceOptions], Engine]
    use: Callable[[str, bool], Use]


def part(kind: Kind[Args], settings: StackSettings, given: Given) -> Part:
    """The engine of `kind` in a stack. Raises ValueError for settings that it refuses."""
    args = kind.arguments(settings, given)
    return Part(
        kind.name,
        describe=lambda: kind.describe(kind.name, args),
        build=lambda provider, opts: kind.build(kind.name, args, provider=provider, opts=opts),
        use=lambda client, required: kind.use(settings, args, client, required),
    )
