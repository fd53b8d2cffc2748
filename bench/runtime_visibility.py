"""From a registration at one replica of the registry to its answer at the other, against py-consul at the same Consul with nothing in between.

The clock runs from before the registration is sent until somebody who waits at the other side has the instance.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from bench.py_consul import PyConsul
from bench.result import Result
from bench.runtime_rest import server
from bench.runtime_support import Subject, free_ports, percentile
from bench.runtime_support import consul as a_consul

SERVICE = "bench-visibility"
SERVICES = "/api/v1/services"
ROUNDS = 25
PAUSE = 2.1  # seconds before each change: the tokens that the last one cost the watch are back, so this is what a lone change takes
LIMIT = 10.0
PROMISE_MS = 1000.0


Step = Callable[[str], Awaitable[object]]


async def rounds(register: Step, forget: Step, seen: Callable[[str], Coroutine[object, object, None]]) -> list[float]:
    """Milliseconds of each round."""
    taken: list[float] = []
    for number in range(ROUNDS):
        identity = f"visible-{number}"
        async with asyncio.timeout(LIMIT):
            waiting = asyncio.create_task(seen(identity))
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            await register(identity)
            await waiting
        taken.append((time.perf_counter() - began) * 1000)
        await forget(identity)
    return taken


def wish(identity: str) -> dict[str, object]:
    """What is registered."""
    return {"service_name": SERVICE, "service_id": identity, "address": "10.1.2.3", "port": 8000}


async def replicas(one: str, other: str) -> list[float]:
    """Ours: two registry processes."""
    async with httpx2.AsyncClient(base_url=one, timeout=LIMIT) as here, httpx2.AsyncClient(base_url=other, timeout=LIMIT) as there:
        await post(here, "always-there")

        async def seen(identity: str) -> None:
            index = 0
            while True:
                answer = await there.get(f"{SERVICES}/discover/{SERVICE}", params={"index": index, "wait": "5s"})
                if answer.status_code == 200:
                    body = answer.json()
                    index = body["index"]
                    if any(instance["service_id"] == identity for instance in body["services"]):
                        return
                else:  # the service itself is not known there yet
                    await asyncio.sleep(0.05)

        await seen("always-there")
        return await rounds(lambda identity: post(here, identity), lambda identity: here.delete(f"{SERVICES}/{identity}"), seen)


async def post(session: httpx2.AsyncClient, identity: str) -> None:
    """Registers. Raises where it is refused."""
    (await session.post(f"{SERVICES}/register", json=wish(identity))).raise_for_status()


async def bare(subject: Subject) -> list[float]:
    """The peer: a registration with the agent and a blocking query by another client."""
    async with PyConsul(subject.host, subject.port) as here, PyConsul(subject.host, subject.port) as there:

        async def seen(identity: str) -> None:
            index: str | None = None
            while True:
                index, entries = await there.service(f"{SERVICE}-peer", index)
                if any(entry["Service"]["ID"] == identity for entry in entries):
                    return

        return await rounds(lambda identity: here.register(f"{SERVICE}-peer", identity), here.deregister, seen)


async def measure(subject: Subject, urls: tuple[str, str]) -> tuple[list[float], list[float]]:
    """Both, one after the other."""
    return await replicas(*urls), await bare(subject)


def run() -> list[Result]:
    """Measures everything once."""
    with a_consul() as subject, TemporaryDirectory() as temporary:
        ports = free_ports(4)
        urls = (f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")
        folders = [Path(temporary) / name for name in ("one", "other")]
        for folder, http_port, metrics_port in zip(folders, ports[:2], ports[2:], strict=True):
            folder.mkdir()
            settings = {"service": "registry", "instance_id": folder.name, "http_port": http_port, "metrics_port": metrics_port}
            (folder / "settings.json").write_text(
                json.dumps({**settings, "consul": {"address": subject.settings.address}, "rate_limit_per_second": 1e6})
            )
        with server("ours", folders[0], ports[0]), server("ours", folders[1], ports[1]):
            ours, peer = asyncio.run(measure(subject, urls))
    who = f"py-consul at {subject.kind}, nothing in between"
    results: list[Result] = []
    for name, share in (("median", 0.5), ("p99", 0.99)):
        own, theirs = percentile(ours, share), percentile(peer, share)
        what = f"register -> visible at the other replica, {name} of {ROUNDS}"
        results.append(Result(what, own, theirs, who, "ms", theirs / own, f"<= {PROMISE_MS:g} ms", own <= PROMISE_MS))
    return results
