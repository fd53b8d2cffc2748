"""The environment in which `pulumi` and `kubectl` work on the sandbox, for the engine and for a person's shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from sandbox import network
from sandbox.errors import SandboxError
from sandbox.paths import REPO, Paths
from sandbox.toolchain import environment_path

STACK = "sandbox"  # the user's own; every other one of the sandbox begins with it
STACK_FILE = "GROUNDWORK_STACK_FILE"  # for `pulumi --config-file`


def refuse_foreign(stack: str) -> None:
    """Raises SandboxError for a stack that is not the sandbox's: it would be one of the user's, such as `dev`, by accident."""
    if not stack.startswith(STACK):
        raise SandboxError(f"stack `{stack}` is none of the sandbox's", fix=f"choose a name that begins with `{STACK}`, such as {STACK}-e2e")


def without_proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For programs that speak to the node only, which no proxy can reach."""
    return {key: value for key, value in environment.items() if key.lower() not in {"http_proxy", "https_proxy", "all_proxy"}}


def variables(paths: Paths) -> dict[str, str]:
    """What `pulumi` and `kubectl` need, without PATH. Nothing in it is secret: the passphrase stays in its file."""
    return {
        "KUBECONFIG": str(paths.kubeconfig),
        "PULUMI_HOME": str(paths.pulumi_home),
        "PULUMI_BACKEND_URL": f"file://{paths.pulumi_backend}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(paths.passphrase),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }


def folders(paths: Paths, repository: Path = REPO) -> tuple[Path, ...]:
    """What comes first on PATH: the virtual environment, because the language host takes the first Python there is; then the tools."""
    return (repository / ".venv" / "bin", paths.bin)


def process(paths: Paths, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a `pulumi` that the sandbox starts."""
    # A passphrase of the user's own would win over the file; without compiled modules every start takes seconds longer.
    inherited = {
        key: value for key, value in without_proxies(environment).items() if not key.startswith("PULUMI_") and key != "PYTHONDONTWRITEBYTECODE"
    }
    return {**inherited, **variables(paths), "PYTHONPYCACHEPREFIX": str(paths.compiled), "PATH": environment_path(folders(paths), environment)}


def shell(paths: Paths, environment: Mapping[str, str] = os.environ) -> str:
    """Lines for `eval`, in the words of any POSIX shell."""
    values = {"PATH": environment_path(folders(paths), environment), **variables(paths), STACK_FILE: str(paths.stack_file(STACK))}
    if any(environment.get(name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")):
        direct = ",".join(filter(None, (environment.get("NO_PROXY") or environment.get("no_proxy"), *network.DIRECT)))
        values |= {"NO_PROXY": direct, "no_proxy": direct}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join(["unset PULUMI_CONFIG_PASSPHRASE PULUMI_ACCESS_TOKEN", *lines])
