"""Each way in which an exchange with Consul can fail is an error of its own, within a deadline, and costs bounded memory."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import CollectorRegistry

from groundwork.consul.client import ConsulClient
from groundwork.consul.errors import (
    AddressUnresolved,
    AnswerTooLarge,
    BadAnswer,
    CertificateRefused,
    ConnectionLost,
    ConnectionRefused,
    FilteredByAccessList,
    NoLeader,
    ServerFailure,
)
from groundwork.consul.transport import TransportLimits
from groundwork.errors import DeadlineExceeded, InvalidSettings, PermissionDenied, PlatformError, RateLimited, UnusableToken
from groundwork.settings import ConsulSettings
from groundwork.testing.faults import Break, Fault
from groundwork.testing.simulator import Access, ConsulSimulator
from tests.app.consul.support import PATIENCE
from tests.app.pki import Authority

TIGHT = TransportLimits(control=0.3, connect=0.3, slack=0.1, body=0.2, max_body=1024 * 1024)


@pytest_asyncio.fixture
async def client(consul_simulator: ConsulSimulator) -> AsyncGenerator[ConsulClient]:
    """A client that does not wait for long and accepts a megabyte."""
    async with ConsulClient(consul_simulator.settings, limits=TIGHT, registry=CollectorRegistry()) as client:
        yield client


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.no_leader(), NoLeader),
        (Fault.denied(), PermissionDenied),
        (Fault(status=500, body=b"rpc error: something"), ServerFailure),
        (Fault(status=503, body=b"busy"), ServerFailure),
        (Fault.overloaded(), RateLimited),
        (Fault.overloaded(status=503, retry_after=7), RateLimited),
        (Fault.filtered(), FilteredByAccessList),
        (Fault(status=302, body=b"elsewhere", headers={"Location": "http://192.0.2.1/"}), BadAnswer),
        (Fault(status=404, body=b"404 page not found", headers={"X-Consul-Index": None}), BadAnswer),
        (Fault(delay=5), DeadlineExceeded),
        (Fault(breaks=Break.SILENT), DeadlineExceeded),
        (Fault(breaks=Break.DROP), ConnectionLost),
        (Fault(breaks=Break.GARBAGE), BadAnswer),
    ],
    ids=lambda value: "" if isinstance(value, Fault) else value.__name__,
)
async def test_each_failure_is_an_error_of_its_own(
    consul_simulator: ConsulSimulator, client: ConsulClient, fault: Fault, error: type[PlatformError]
) -> None:
    consul_simulator.put("a", b"1")
    with consul_simulator.fault(fault), pytest.raises(error) as caught:
        await client.kv_list("a")
    assert type(caught.value) is error
    assert await client.kv_get("a"), "the client works again after the fault"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(breaks=Break.SLOW), DeadlineExceeded),
        (Fault(breaks=Break.TRUNCATE), ConnectionLost),
        (Fault(status=200, body=b"<html>welcome</html>", headers={"Content-Type": "text/html"}), BadAnswer),
        (Fault(status=200, body=b'[{"Key": "a", "Va'), BadAnswer),
        (Fault(status=200, body=b'{"not": "a list"}'), BadAnswer),
        (Fault(status=200, body=b"\xff\xfe\x00"), BadAnswer),
        (Fault(status=200, body=b"[" * 100_000), BadAnswer),
        (Fault(status=200, body=b" " * 50_000_000), AnswerTooLarge),
        (Fault(breaks=Break.GZIP), AnswerTooLarge),
    ],
    ids=["slow-loris", "truncated", "html", "half-json", "other-shape", "not-utf8", "deep", "50-mb", "gzip-bomb"],
)
async def test_r12_a_body_that_is_no_answer_is_refused_in_bounded_time_and_memory(
    consul_simulator: ConsulSimulator, fault: Fault, error: type[PlatformError]
) -> None:
    consul_simulator.put("a", b"1")
    limits = TransportLimits(control=10, body=1, max_body=1024 * 1024)
    async with ConsulClient(consul_simulator.settings, limits=limits, registry=CollectorRegistry()) as client:
        with consul_simulator.fault(fault), pytest.raises(error) as caught:
            await client.kv_list("a")
        assert type(caught.value) is error
        assert await client.kv_get("a")


async def test_r12_a_body_that_drips_ends_a_blocking_query_too(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put("a", b"1")
    limits = TransportLimits(slack=120, body=0.3)
    async with ConsulClient(consul_simulator.settings, limits=limits, registry=CollectorRegistry()) as client:
        with consul_simulator.fault(Fault(breaks=Break.SLOW)), pytest.raises(DeadlineExceeded):
            async with asyncio.timeout(PATIENCE):
                await client.kv_list("a", index=1, wait=1)


async def test_r11_retry_after_is_handed_on_in_seconds(consul_simulator: ConsulSimulator, client: ConsulClient) -> None:
    with consul_simulator.fault(Fault.overloaded(retry_after=7)), pytest.raises(RateLimited) as caught:
        await client.kv_get("a")
    assert caught.value.retry_after == 7


async def test_nobody_listening_is_a_refused_connection(consul_simulator: ConsulSimulator, client: ConsulClient) -> None:
    await consul_simulator.stop()
    with pytest.raises(ConnectionRefused, match="is it running"):
        await client.kv_get("a")


async def test_an_unknown_host_is_named(consul_simulator: ConsulSimulator) -> None:
    settings = ConsulSettings(address=f"http://consul.invalid:{consul_simulator.port}")
    async with ConsulClient(settings, limits=TIGHT, registry=CollectorRegistry(), resolver=Addresses({})) as client:
        with pytest.raises(AddressUnresolved, match=r"consul\.address"):
            await client.kv_get("a")


class Addresses(AbstractResolver):
    """A DNS whose entries a test changes."""

    def __init__(self, entries: dict[str, str]) -> None:
        self.entries = entries

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """The one address of a host."""
        if host not in self.entries:
            raise OSError(None, "Name or service not known")
        return [ResolveResult(hostname=host, host=self.entries[host], port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to close."""


async def test_r22_the_address_may_change_in_dns(consul_simulator: ConsulSimulator) -> None:
    addresses = Addresses({"consul.test": "127.0.0.1"})
    settings = ConsulSettings(address=f"http://consul.test:{consul_simulator.port}")
    limits = TransportLimits(control=2, dns_ttl=0)
    consul_simulator.put("where", b"first")
    async with (
        ConsulSimulator(host="127.0.0.2", port=consul_simulator.port) as second,
        ConsulClient(settings, limits=limits, registry=CollectorRegistry(), resolver=addresses) as client,
    ):
        second.put("where", b"second")
        first = await client.kv_get("where")
        addresses.entries["consul.test"] = "127.0.0.2"
        await consul_simulator.stop()
        later = await client.kv_get("where")
    assert first is not None
    assert later is not None
    assert (first.value, later.value) == (b"first", b"second")


async def test_r23_a_rotated_token_is_used_at_once(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    consul_simulator.tokens = {"old": Access(), "new": Access()}
    settings = consul_simulator.settings.model_copy(update={"token_file": file})
    async with ConsulClient(settings, limits=TIGHT, registry=CollectorRegistry()) as client:
        await client.kv_get("a")
        del consul_simulator.tokens["old"]
        with pytest.raises(PermissionDenied):
            await client.kv_get("a")
        replacement = tmp_path / "token.new"
        replacement.write_text("new\n")
        replacement.replace(file)
        await client.kv_get("a")
    assert [request.token for request in consul_simulator.requests] == ["old", "old", "new"]


async def test_a_token_that_cannot_be_read_or_sent_is_named(consul_simulator: ConsulSimulator, tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings = consul_simulator.settings.model_copy(update={"token_file": file})
    async with ConsulClient(settings, limits=TIGHT, registry=CollectorRegistry()) as client:
        with pytest.raises(InvalidSettings, match="is the Secret mounted"):
            await client.kv_get("a")
        file.write_text("evil\r\nX-Injected: 1")
        with pytest.raises(UnusableToken) as caught:
            await client.kv_get("a")
    assert "evil" not in str(caught.value)
    assert consul_simulator.requests == []


async def test_tls_is_verified_against_the_configured_ca(tmp_path: Path) -> None:
    authority, other = Authority(), Authority()
    authority.write(tmp_path / "ca")
    other.write(tmp_path / "other")
    authority.issue("consul", ("localhost",), ("127.0.0.1",)).write(tmp_path / "tls")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls/tls.crt", tmp_path / "tls/tls.key")
    async with ConsulSimulator(tls=context, ca=tmp_path / "ca/ca.crt") as simulator:
        async with ConsulClient(simulator.settings, limits=TIGHT, registry=CollectorRegistry()) as client:
            assert await client.leader()
        for ca in (tmp_path / "other/ca.crt", None):
            settings = simulator.settings.model_copy(update={"ca": ca})
            async with ConsulClient(settings, limits=TIGHT, registry=CollectorRegistry()) as client:
                with pytest.raises(CertificateRefused):
                    await client.leader()


async def test_a_ca_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    settings = ConsulSettings(address="https://127.0.0.1:1", ca=tmp_path / "ca.crt")
    with pytest.raises(InvalidSettings, match=r"consul\.ca"):
        async with ConsulClient(settings, registry=CollectorRegistry()):
            pass


async def test_waiting_watches_leave_room_for_calls(consul_simulator: ConsulSimulator) -> None:
    consul_simulator.put("a", b"1")
    async with ConsulClient(consul_simulator.settings, limits=TransportLimits(control_connections=2), registry=CollectorRegistry()) as client:
        index = (await client.kv_list("a")).index
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(client.kv_list("a", index=index, wait=30)) for _ in range(20)]
            await consul_simulator.blocked(20)
            assert await client.kv_get("a")
            consul_simulator.put("a", b"2")
        assert all(watch.result().value[0].value == b"2" for watch in watches)


async def test_requests_are_counted_by_operation_and_result(consul_simulator: ConsulSimulator) -> None:
    registry = CollectorRegistry()
    async with ConsulClient(consul_simulator.settings, limits=TIGHT, registry=registry) as client:
        await client.kv_get("a")
        with consul_simulator.fault(Fault.no_leader()), pytest.raises(NoLeader):
            await client.kv_get("a")
    count = {code: registry.get_sample_value("consul_request_seconds_count", {"op": "kv_get", "code": code}) for code in ("404", "500")}
    assert count == {"404": 1, "500": 1}
