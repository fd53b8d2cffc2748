"""`python -m sandbox`: a real one-node Kubernetes on this machine, with the platform on it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from sandbox import certificates, environment, lock, paths, recipes, stackfile, status, up
from sandbox.environment import STACK
from sandbox.errors import SandboxError
from sandbox.paths import HOLDER
from sandbox.progress import Progress, report
from sandbox.up import Request


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("up", help="bring up what is not up: tools, node, images, stack")
    start.add_argument(
        "--only", choices=recipes.STAGES, help="node: the node; images: the node and its images; stack: the stack alone, all else must be there"
    )
    start.add_argument("--take-over", action="store_true", help="take the sandbox over from another clone")
    look = commands.add_parser("preview", help="what an `up` of the stack would change")
    look.add_argument("--expect-no-changes", action="store_true", help="fail when there is a change")
    destroy = commands.add_parser("destroy", help="remove a stack from the cluster")
    for command in (start, look, destroy):
        command.add_argument("--stack", default=STACK, help=f"a stack whose name begins with `{STACK}`; default: %(default)s")
        command.add_argument("--namespace", help="its namespace; default: groundwork-STACK")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of the stack file, e.g. rotation=2")
    commands.add_parser("status", help="what runs where, memory, certificates")
    commands.add_parser("env", help='shell variables: eval "$(python -m sandbox env)"')
    commands.add_parser("down", help="stop everything; volumes, cluster and stack state stay")
    commands.add_parser("clean", help="stop everything, remove data and caches")
    return root


def run(argv: Sequence[str]) -> int:
    """Does what `argv` says; the exit code.

    Raises SandboxError with what went wrong and what to do.
    """
    words = parser().parse_args(argv)
    place = paths.locate()
    if words.command == "env":
        print(environment.shell(place))
        return 0
    sandbox = up.assemble(place, Progress(place.logs))
    match words.command:
        case "up":
            up.up(sandbox, request(words))
        case "preview":
            up.preview(sandbox, request(words), expect_no_changes=words.expect_no_changes)
        case "destroy":
            up.destroy(sandbox, request(words))
        case "status":
            return show_status(sandbox)
        case "down":
            up.down(sandbox)
        case _:
            up.clean(sandbox)
    return 0


def request(words: argparse.Namespace) -> Request:
    """What the command line asks for.

    Raises SandboxError for a stack that is not the sandbox's, before anything is built or started for it.
    """
    environment.refuse_foreign(words.stack)
    return Request(
        only=getattr(words, "only", None),
        stack=words.stack,
        namespace=words.namespace,
        overrides=stackfile.overrides(words.set),
        take_over=getattr(words, "take_over", False),
    )


def show_status(sandbox: up.Sandbox) -> int:
    """Prints the status; 1 where nothing runs."""
    owner = lock.owner(sandbox.paths)
    if owner is None or not sandbox.node.runs(HOLDER):
        print("the sandbox is down: `make up` starts it")
        return 1
    print(f"owner: {owner.repository}\n")
    if sandbox.kubectl.api_problem() is not None:
        print(status.node_table(status.node_processes(sandbox.node)))
        print(f"\n{status.certificate_table(certificates.of_node(sandbox.paths.pki))}")  # one that has ended may be why
        print("\nthe API server does not answer: `make up` starts what has ended")
        return 1
    print(status.report(sandbox.node, sandbox.kubectl))
    return 0


def main() -> int:
    """The exit code: 0 done, 1 refused or failed, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: in order
    try:
        return run(sys.argv[1:])
    except SandboxError as error:
        print(report(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
