"""`python -m groundwork.testing --port 8500`: the simulator as a process of its own. It is a simulator: see `groundwork.testing.simulator`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from groundwork.testing.simulator import ConsulSimulator


async def serve(host: str, port: int) -> None:
    """Serves until the process is ended."""
    async with ConsulSimulator(host=host, port=port) as simulator:
        sys.stdout.write(f"a simulator of Consul, not Consul, listens at {simulator.settings.address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m groundwork.testing", description="A simulator of Consul for tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
