"""The writer of the churn benchmark, in a process of its own: changes one instance's port 100 times a second."""

from __future__ import annotations

import asyncio
import sys

from prometheus_client import CollectorRegistry

from bench.runtime_support import Subject, instance
from groundwork.consul.client import ConsulClient


async def write(subject: Subject, service: str, rate: float, seconds: float) -> None:
    """Change by change, on time as far as Consul can follow."""
    loop = asyncio.get_running_loop()
    async with ConsulClient(subject.settings, registry=CollectorRegistry()) as client:
        began, count = loop.time(), int(rate * seconds)
        for number in range(1, count + 1):
            await client.txn(instance(service, 0, port=10_000 + number))
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))


if __name__ == "__main__":
    host, port, service, rate, seconds = sys.argv[1:]
    asyncio.run(write(Subject(host, int(port), ""), service, float(rate), float(seconds)))
