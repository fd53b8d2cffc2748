"""Settings that cannot work are refused when they are read, by their own name; a pod of either address family is reached."""

from __future__ import annotations

import asyncio
import socket

import pytest

from groundwork import serving
from groundwork.errors import InvalidSettings
from groundwork.metrics import Metrics
from groundwork.settings import Settings, load
from tests.app.processes import free_port


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl_seconds", 0.5),
        ("ttl_seconds", 7200.0),
        ("ttl_seconds", float("inf")),
        ("ttl_seconds", float("nan")),
        ("deregister_after_seconds", 1e7),
        ("instance_id", "a b"),
        ("instance_id", ""),
        ("instance_id", "x" * 200),
        ("address", "0.0.0.0"),
        ("address", "::"),
        ("address", "224.0.0.1"),
        ("address", "10.0.0"),
        ("address", "http://host"),
        ("tags", ("no good",)),
        ("zone", "z\n1"),
        ("version", "v" * 600),
        ("metrics_port", 8000),
        ("config_prefix", "config"),
        ("config_prefix", "../"),
        ("drain_seconds", float("inf")),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(InvalidSettings, match=rf"\b{name}\b") as caught:
        load(**({"service": "user-service"} | {name: value}))
    if isinstance(value, str) and len(value) > 2:
        assert repr(value) not in str(caught.value)


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::7", "localhost", "user-service.demo"])
def test_addresses_that_can_work_are_taken(address: str) -> None:
    assert load(service="user-service", address=address).address == address


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("10.1.2.3", "0.0.0.0"),
        ("a-host", "0.0.0.0"),
        ("::1", "::1"),
        ("fd00::7", "::"),
    ],
)
def test_a_pod_listens_in_the_family_of_its_address_and_a_laptop_to_itself_only(address: str, bound: str) -> None:
    assert serving.bind_address(Settings(service="x", address=address)) == bound


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_an_ipv6_pod_is_reached_at_its_address() -> None:
    known = Settings(service="x", address="fd00::7", http_port=free_port(), metrics_port=free_port())

    async def app(_scope: object, _receive: object, _send: object) -> None:
        raise AssertionError("nobody asks")

    async def leave() -> None:
        pass

    running = asyncio.create_task(serving.serve(app, known, Metrics(), leave=leave))
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("::1", known.http_port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
    finally:
        running.cancel()
        await asyncio.wait({running})
