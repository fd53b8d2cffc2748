"""`python -m sandbox`: a real one-node Kubernetes on this machine, with the platform on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sandbox import environment, lock, paths, recipes, up
from sandbox.errors import SandboxError
from sandbox.progress import Progress, report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="bring up what is not up: tools, node, images, platform")
    start.add_argument("--only", choices=recipes.STAGES, default=recipes.STAGES[-1], help="stop after this stage")
    start.add_argument("--take-over", action="store_true", help="take the sandbox over from another clone")
    commands.add_parser("env", help='shell variables: eval "$(python -m sandbox env)"')
    commands.add_parser("down", help="stop everything; volumes, cluster and stack state stay")
    return root


def run(argv: Sequence[str]) -> None:
    """Does what `argv` says.

    Raises SandboxError with what went wrong and what to do.
    """
    words = parser().parse_args(argv)
    place = paths.locate()
    progress = Progress(place.logs)
    match words.command:
        case "up":
            up.up(up.assemble(place, progress), stage=words.only, take_over=words.take_over)
        case "env":
            print(environment.shell(place))
        case _:
            lock.refuse_stranger(place, paths.REPO, take_over=False)
            with lock.exclusive(place):
                up.assemble(place, progress).node.stop(progress)


def main() -> int:
    """The exit code: 0 done, 1 refused or failed, 130 interrupted."""
    try:
        run(sys.argv[1:])
    except SandboxError as error:
        print(report(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
