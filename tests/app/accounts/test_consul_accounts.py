"""The tokens and policies of Consul, applied to a real server."""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from components.consul import ConsulRole, agent_rules, rules
from tests.app import servers
from tests.app.accounts.runs import Run, accounts
from tests.app.servers import Consul

TOKENS = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in ("agent", "orders", "registry", "config")}
ROLES = {"orders": (ConsulRole.READER,), "registry": (ConsulRole.REGISTRY_WRITER,), "config": (ConsulRole.CONFIG_WRITER,)}


@pytest.fixture(scope="module")
def server() -> Generator[Consul]:
    with servers.consul() as running:
        yield running


@asynccontextmanager
async def api(server: Consul, token: str | None) -> AsyncGenerator[aiohttp.ClientSession]:
    trust = ssl.create_default_context(cafile=str(server.ca))
    headers = {} if token is None else {"X-Consul-Token": token}
    async with aiohttp.ClientSession(base_url=server.address, headers=headers, connector=aiohttp.TCPConnector(ssl=trust)) as session:
        yield session


@pytest.fixture(autouse=True)
async def _empty(server: Consul) -> None:
    """No test sees the tokens and policies of another one."""
    async with api(server, server.token) as admin:
        for kind, key in (("token", "AccessorID"), ("policy", "ID")):
            async with admin.get(f"/v1/acl/{'tokens' if kind == 'token' else 'policies'}") as answer:
                for entry in await answer.json():
                    if "groundwork" in entry.get("Description", "") or entry.get("Name", "").startswith("groundwork-"):
                        async with admin.delete(f"/v1/acl/{kind}/{entry[key]}") as deleted:
                            assert deleted.status == 200


def state(server: Consul, *names: str, **tokens: str) -> dict[str, object]:
    clients = [{"name": name, "token": tokens.get(name, TOKENS[name]), "rules": rules(ROLES[name])} for name in names]
    return {"host": server.host, "port": server.port, "tokens": [{"name": "agent", "token": TOKENS["agent"], "rules": agent_rules()}, *clients]}


async def apply(server: Consul, root: Path, *names: str, **tokens: str) -> Run:
    """Applied, and with success."""
    run = await asyncio.to_thread(accounts, "consul", server, root, state(server, *names, **tokens))
    assert run.code == 0, run.output
    return run


async def status(server: Consul, token: str | None, method: str, path: str, body: object = None) -> int:
    async with api(server, token) as session, session.request(method, path, data=None if body is None else json.dumps(body)) as answer:
        await answer.read()
        return answer.status


async def names_of(server: Consul, kind: str, key: str) -> set[str]:
    async with api(server, server.token) as admin, admin.get(f"/v1/acl/{kind}") as answer:
        return {entry[key] for entry in await answer.json()}


async def test_a_reader_reads_configuration_and_services_and_writes_nothing(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders", "config")
    assert await status(server, TOKENS["config"], "PUT", "/v1/kv/config/orders/limit", 5) == 200
    assert await status(server, TOKENS["orders"], "GET", "/v1/kv/config/orders/limit") == 200
    assert await status(server, TOKENS["orders"], "PUT", "/v1/kv/config/orders/limit", 6) == 403
    assert await status(server, TOKENS["orders"], "GET", "/v1/kv/registry/ids/a") == 403
    async with api(server, TOKENS["orders"]) as orders, orders.get("/v1/catalog/services") as answer:
        assert await answer.json() == {"consul": []}
        assert "X-Consul-Results-Filtered-By-ACLs" not in answer.headers


async def test_the_registry_writes_its_node_and_services_but_no_configuration(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "registry")
    token = TOKENS["registry"]
    entry = {"Node": "platform-registry", "Address": "127.0.0.1", "Service": {"Service": "orders", "Port": 8000}}
    assert await status(server, token, "PUT", "/v1/catalog/register", entry) == 200
    assert await status(server, token, "PUT", "/v1/kv/registry/ids/orders-1", {"owner": "orders"}) == 200
    assert await status(server, token, "PUT", "/v1/session/create", {"TTL": "10s"}) == 200
    assert await status(server, token, "PUT", "/v1/kv/config/orders/limit", 6) == 403
    assert await status(server, token, "PUT", "/v1/catalog/register", {**entry, "Node": "another"}) == 403
    assert await status(server, token, "PUT", "/v1/catalog/register", {**entry, "Service": {"Service": "consul"}}) == 403


async def test_only_the_config_service_writes_configuration(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "config")
    assert await status(server, TOKENS["config"], "PUT", "/v1/kv/config/orders/limit", 5) == 200
    assert await status(server, TOKENS["config"], "PUT", "/v1/kv/registry/ids/orders-1", {}) == 403


async def test_without_a_token_nothing_is_told(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    async with api(server, None) as anonymous, anonymous.get("/v1/catalog/services") as answer:
        assert await answer.json() == {}
    assert await status(server, None, "GET", "/v1/kv/config/orders/limit") == 403


async def test_a_second_run_changes_nothing(server: Consul, tmp_path: Path) -> None:
    first = await apply(server, tmp_path, "orders")
    before = await names_of(server, "tokens", "AccessorID")
    second = await apply(server, tmp_path, "orders")
    assert "2 of them changed" in first.last
    assert "0 of them changed, 0 removed" in second.last
    assert await names_of(server, "tokens", "AccessorID") == before


async def test_a_rotation_removes_the_old_token_and_keeps_what_it_wrote(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "config")
    assert await status(server, TOKENS["config"], "PUT", "/v1/kv/config/orders/limit", 5) == 200
    rotated = str(uuid.uuid4())
    await apply(server, tmp_path, "config", config=rotated)
    assert await status(server, TOKENS["config"], "GET", "/v1/kv/config/orders/limit") == 403
    assert await status(server, rotated, "GET", "/v1/kv/config/orders/limit") == 200


async def test_a_changed_rule_is_applied_to_the_policy_that_is_there(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    changed = state(server, "orders")
    granted = {"key_prefix": {"config/": {"policy": "write"}}}
    changed["tokens"] = [
        {"name": "agent", "token": TOKENS["agent"], "rules": agent_rules()},
        {"name": "orders", "token": TOKENS["orders"], "rules": granted},
    ]
    run = await asyncio.to_thread(accounts, "consul", server, tmp_path, changed)
    assert "1 of them changed" in run.last
    assert await status(server, TOKENS["orders"], "PUT", "/v1/kv/config/orders/limit", 6) == 200


async def test_a_client_that_is_removed_loses_its_token_and_policy_and_others_stay(server: Consul, tmp_path: Path) -> None:
    async with api(server, server.token) as admin, admin.put("/v1/acl/token", json={"Description": "made by hand"}) as answer:
        by_hand = await answer.json()
    await apply(server, tmp_path, "orders", "config")
    run = await apply(server, tmp_path, "orders")
    assert "what was written with it is kept" in run.output
    assert await status(server, TOKENS["config"], "GET", "/v1/acl/token/self") == 403
    assert "groundwork-config" not in await names_of(server, "policies", "Name")
    assert by_hand["AccessorID"] in await names_of(server, "tokens", "AccessorID")


async def test_rights_that_were_added_to_a_token_by_hand_are_taken(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    async with api(server, TOKENS["orders"]) as orders, orders.get("/v1/acl/token/self") as answer:
        token = await answer.json()
    token["Policies"] = [*token["Policies"], {"Name": "global-management"}]
    assert await status(server, server.token, "PUT", f"/v1/acl/token/{token['AccessorID']}", token) == 200
    assert await status(server, TOKENS["orders"], "GET", "/v1/acl/tokens") == 200
    await apply(server, tmp_path, "orders")
    assert await status(server, TOKENS["orders"], "GET", "/v1/acl/tokens") == 403


async def test_no_token_reaches_the_program_s_output_or_the_server_s_log(server: Consul, tmp_path: Path) -> None:
    run = await apply(server, tmp_path, "orders")
    for secret in (TOKENS["orders"], server.token):
        assert secret not in run.output
        assert secret not in server.log_text()


async def test_a_lost_volume_gets_its_tokens_back_while_the_server_still_starts(server: Consul, tmp_path: Path) -> None:
    await apply(server, tmp_path, "orders")
    server.kill()
    server.wipe()
    server.spawn()
    await apply(server, tmp_path, "orders")
    assert await status(server, TOKENS["orders"], "GET", "/v1/acl/token/self") == 200


async def test_a_wrong_management_token_is_said_with_the_fix(server: Consul, tmp_path: Path) -> None:
    run = await asyncio.to_thread(accounts, "consul", server, tmp_path, state(server), admin=str(uuid.uuid4()), wait_seconds=2)
    assert run.code == 1
    assert "created with another one" in run.last
