"""`python -m app registry`, `python -m app config`, or `python -m app --port 8000` for both in one process during development."""

from __future__ import annotations

import argparse
import sys
from typing import cast

from app.main import Role, run
from groundwork import serving
from groundwork.errors import InvalidSettings
from groundwork.settings import load


def main() -> int:
    """Run the service that the arguments name; 2 for settings that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m app", description="The platform's API services.")
    parser.add_argument("role", nargs="?", choices=("registry", "config", "all"), default="all", help="what to serve (default: all, for development)")
    parser.add_argument("--port", type=int, help="HTTP port (default: http_port of the settings)")
    arguments = parser.parse_args()
    role = cast("Role", arguments.role)
    given: dict[str, object] = {} if arguments.port is None else {"http_port": arguments.port}
    try:
        settings = load(**given) if role != "all" else load(**({"service": "app"} | given))
        serving.run(run(role, settings))
    except InvalidSettings as error:
        print(f"groundwork: {error}", file=sys.stderr)  # noqa: T201 - the process ends before it has a log
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
