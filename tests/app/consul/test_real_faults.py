"""The same promises with a real Consul that is killed, frozen, wiped, moved, and whose tokens are revoked."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import CollectorRegistry

from groundwork.backends.consul import ConsulConfig
from groundwork.config.store import ConfigStore
from groundwork.consul.client import ConsulClient
from groundwork.consul.errors import FilteredByAccessList
from groundwork.consul.pacing import WatchOptions
from groundwork.consul.transport import TransportLimits
from groundwork.consul.txn import CheckSet, ServiceDelete
from groundwork.discovery.client import DiscoveryClient, ServiceSnapshot
from groundwork.discovery.consul_source import ConsulDiscoverySource
from groundwork.errors import PermissionDenied
from groundwork.settings import ConsulSettings
from groundwork.testing.contract import instance
from tests.app import servers
from tests.app.consul.real import find_in_cache
from tests.app.consul.support import SERVICE, ids, until

NODE = "node-1"
OPTIONS = WatchOptions(wait=2, interval=0.02, slowest=0.02, backoff_min=0.02, backoff_max=0.2, linger=0.1, start_jitter=0)
LIMITS = TransportLimits(control=2, connect=1, slack=0.5)


@pytest.fixture
def server() -> Generator[servers.Consul]:
    """A Consul server of the test's own."""
    find_in_cache()
    with servers.consul() as server:
        yield server


def settings_of(server: servers.Consul, folder: Path, token: str | None = None) -> ConsulSettings:
    """How to reach it, with the management token or another one."""
    file = folder / "token"
    file.write_text(token or server.token)
    return ConsulSettings(address=server.address, ca=server.ca, token_file=file)


@asynccontextmanager
async def watched(
    settings: ConsulSettings, *, resolver: AbstractResolver | None = None
) -> AsyncGenerator[tuple[ConsulClient, DiscoveryClient, list[ServiceSnapshot]]]:
    """A client, discovery that watches the service, and what a subscriber has seen."""
    registry = CollectorRegistry()
    async with (
        ConsulClient(settings, limits=LIMITS, registry=registry, resolver=resolver) as client,
        DiscoveryClient(ConsulDiscoverySource(client), [SERVICE], options=OPTIONS, registry=registry) as discovery,
    ):
        seen: list[ServiceSnapshot] = []

        async def follow() -> None:
            write_down = seen.append
            async for snapshot in discovery.watch(SERVICE):
                write_down(snapshot)

        task = asyncio.create_task(follow())
        yield client, discovery, seen
        task.cancel()


async def test_r03_a_consul_that_lost_its_data_is_followed_to_its_new_beginning(server: servers.Consul, tmp_path: Path) -> None:
    settings = settings_of(server, tmp_path)
    async with watched(settings) as (client, discovery, seen):
        for number in range(20):
            await client.kv_put(f"filler/{number}", b"x")  # the index climbs
        await client.txn(instance(NODE, SERVICE, "old"))
        await until(lambda: ids(discovery) == ["old"])
        before = discovery.snapshot(SERVICE)
        server.kill()
        server.wipe()
        await until(lambda: discovery.snapshot(SERVICE).stale)
        assert ids(discovery) == ["old"]
        await asyncio.to_thread(server.start)
        await client.txn(instance(NODE, SERVICE, "new"))
        await until(lambda: ids(discovery) == ["new"])
        after = discovery.snapshot(SERVICE)
    assert after.index < before.index
    assert all(later.index >= earlier.index or later.reset for earlier, later in pairwise(seen))


async def test_r06_a_killed_consul_leaves_the_last_state_and_is_caught_up_with(server: servers.Consul, tmp_path: Path) -> None:
    async with watched(settings_of(server, tmp_path)) as (client, discovery, seen):
        await client.txn(instance(NODE, SERVICE, "u1"))
        await until(lambda: ids(discovery) == ["u1"])
        server.kill()
        await until(lambda: discovery.snapshot(SERVICE).stale)
        first = discovery.snapshot(SERVICE).age
        await until(lambda: discovery.snapshot(SERVICE).age > first)
        assert ids(discovery) == ["u1"]
        await asyncio.to_thread(server.start)
        await client.txn([*instance(NODE, SERVICE, "u2"), ServiceDelete(NODE, "u1")])
        await until(lambda: ids(discovery) == ["u2"] and not discovery.snapshot(SERVICE).stale)
    assert all(snapshot.instances for snapshot in seen if snapshot.generation > 1)


async def test_r10_a_frozen_consul_is_noticed_and_its_thaw_too(server: servers.Consul, tmp_path: Path) -> None:
    async with watched(settings_of(server, tmp_path)) as (client, discovery, _):
        await client.txn(instance(NODE, SERVICE, "u1"))
        await until(lambda: ids(discovery) == ["u1"])
        server.pause()
        try:
            await until(lambda: discovery.snapshot(SERVICE).stale)
            assert ids(discovery) == ["u1"]
        finally:
            server.resume()
        await until(lambda: not discovery.snapshot(SERVICE).stale)
        await client.txn(instance(NODE, SERVICE, "u2"))
        await until(lambda: ids(discovery) == ["u1", "u2"])


async def test_r06_configuration_survives_a_restart_of_consul(server: servers.Consul, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with (
        ConsulClient(settings_of(server, tmp_path), limits=LIMITS, registry=registry) as client,
        ConfigStore(ConsulConfig(client), "user-service", environment={}, options=OPTIONS, registry=registry) as config,
    ):
        await config.ready()
        await config.put("limits", {"requests": 1})
        await until(lambda: config.get("limits", None) == {"requests": 1})
        server.kill()
        await until(lambda: config.stale)
        assert config.get("limits") == {"requests": 1}
        await asyncio.to_thread(server.start)
        await config.put("limits", {"requests": 2})
        await until(lambda: config.get("limits") == {"requests": 2} and not config.stale)


class Moving(AbstractResolver):
    """A DNS entry that a test changes."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Where the host is now."""
        return [ResolveResult(hostname=host, host=self.address, port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to close."""


async def test_r22_a_consul_that_comes_back_at_another_address_is_found(server: servers.Consul, tmp_path: Path) -> None:
    resolver = Moving(server.host)
    settings = settings_of(server, tmp_path).model_copy(update={"address": f"https://localhost:{server.port}"})
    async with watched(settings, resolver=resolver) as (client, discovery, _):
        await client.txn(instance(NODE, SERVICE, "u1"))
        await until(lambda: ids(discovery) == ["u1"])
        await asyncio.to_thread(server.stop)
        server.host = "127.0.0.2"
        await asyncio.to_thread(server.start)
        resolver.address = "127.0.0.2"
        await until(lambda: not discovery.snapshot(SERVICE).stale)
        await client.txn(instance(NODE, SERVICE, "u2"))
        await until(lambda: ids(discovery) == ["u1", "u2"])


class Written(msgspec.Struct):
    """What Consul says about a policy or a token."""

    id: str = msgspec.field(name="ID", default="")
    accessor: str = msgspec.field(name="AccessorID", default="")


class AccessLists:
    """Consul's own API for policies and tokens, as the administrator."""

    def __init__(self, server: servers.Consul, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session
        self._context = ssl.create_default_context(cafile=str(server.ca))

    async def call(self, method: str, path: str, body: dict[str, object] | None = None) -> Written:
        """One call that must succeed."""
        headers = {"X-Consul-Token": self._server.token}
        timeout = aiohttp.ClientTimeout(total=10)
        url = f"{self._server.address}/v1/acl/{path}"
        async with self._session.request(method, url, json=body, headers=headers, ssl=self._context, timeout=timeout) as answer:
            text = await answer.read()
            assert answer.status == 200, text
            return msgspec.json.decode(text, type=Written) if text.startswith(b"{") else Written()

    async def token(self, secret: str, rules: str) -> str:
        """A token that may do what the rules say; its accessor id."""
        policy = await self.call("PUT", "policy", {"Name": uuid.uuid4().hex, "Rules": rules})
        token = await self.call("PUT", "token", {"SecretID": secret, "Policies": [{"ID": policy.id}]})
        return token.accessor


READ = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'


async def test_r23_and_r24_a_token_revoked_or_narrowed_keeps_the_state_and_a_restored_one_continues(server: servers.Consul, tmp_path: Path) -> None:
    secret = str(uuid.uuid4())
    (tmp_path / "admin").mkdir()
    async with aiohttp.ClientSession() as session, ConsulClient(settings_of(server, tmp_path / "admin"), registry=CollectorRegistry()) as admin:
        lists = AccessLists(server, session)
        accessor = await lists.token(secret, READ)
        await admin.txn(instance(NODE, SERVICE, "u1"))
        async with watched(settings_of(server, tmp_path, secret)) as (_, discovery, seen):
            await until(lambda: ids(discovery) == ["u1"])
            for rules, error in ((None, PermissionDenied), ('key_prefix "" { policy = "read" }', FilteredByAccessList)):
                await lists.call("DELETE", f"token/{accessor}")
                if rules is not None:
                    accessor = await lists.token(secret, rules)
                await admin.txn([CheckSet(NODE, "lease:u1", "lease", "warning" if rules is None else "critical", "u1")])
                freshness = discovery.freshness(SERVICE)
                assert freshness is not None
                await until(lambda freshness=freshness, error=error: isinstance(freshness.error, error))
                assert ids(discovery) == ["u1"]
                if rules is not None:
                    await lists.call("DELETE", f"token/{accessor}")
                accessor = await lists.token(secret, READ)
                await until(lambda: not discovery.snapshot(SERVICE).stale)
            await admin.txn(instance(NODE, SERVICE, "u2"))
            await until(lambda: ids(discovery) == ["u1", "u2"])
        assert all(snapshot.instances for snapshot in seen)
