"""The tokens and policies of Consul, applied to a real server."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from components.consul import ConsulRole, rules
from tests.app.accounts.kinds import ConsulKind, entries
from tests.app.accounts.runs import LOG, Run, accounts, password, said

ROLES: Mapping[str, tuple[ConsulRole, ...]] = {
    "orders": (ConsulRole.READER,),
    "registry": (ConsulRole.REGISTRY_WRITER,),
    "config": (ConsulRole.CONFIG_WRITER,),
}


class RoledConsul(ConsulKind):
    """Consul whose clients have the roles of their names."""

    def client(self, name: str, generation: int) -> dict[str, object]:
        return {**super().client(name, generation), "rules": rules(ROLES[name])}


@pytest.fixture(scope="module")
def running() -> Generator[RoledConsul]:
    kind = RoledConsul()
    try:
        kind.server.start()
        yield kind
    finally:
        kind.server.close()


@pytest.fixture
async def consul(running: RoledConsul) -> RoledConsul:
    """No test sees the tokens and policies of another one."""
    await running.clear()
    return running


def token(name: str, generation: int = 1) -> str:
    return ConsulKind.token(password(name, generation))


async def apply(consul: RoledConsul, root: Path, *names: str) -> Run:
    """Applied in the first generation, with the tokens of clients that are gone retired."""
    return await consul.apply(root, names, retire=True)


async def status(consul: RoledConsul, of: str | None, method: str, path: str, body: object = None) -> int:
    data = None if body is None else json.dumps(body)
    async with consul.api(of or "") as session, session.request(method, path, data=data) as answer:
        await answer.read()
        return answer.status


async def names_of(consul: RoledConsul, kind: str, key: str) -> set[object]:
    return {entry[key] for entry in entries(await consul.call("GET", f"/v1/acl/{kind}"))}


async def test_a_reader_reads_configuration_and_services_and_writes_nothing(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "orders", "config")
    assert await status(consul, token("config"), "PUT", "/v1/kv/config/orders/limit", 5) == 200
    assert await status(consul, token("orders"), "GET", "/v1/kv/config/orders/limit") == 200
    assert await status(consul, token("orders"), "PUT", "/v1/kv/config/orders/limit", 6) == 403
    assert await status(consul, token("orders"), "GET", "/v1/kv/registry/ids/a") == 403
    async with consul.api(token("orders")) as orders, orders.get("/v1/catalog/services") as answer:
        assert await answer.json() == {"consul": []}
        assert "X-Consul-Results-Filtered-By-ACLs" not in answer.headers


async def test_the_registry_writes_its_node_and_services_but_no_configuration(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "registry")
    own = token("registry")
    entry = {"Node": "platform-registry", "Address": "127.0.0.1", "Service": {"Service": "orders", "Port": 8000}}
    assert await status(consul, own, "PUT", "/v1/catalog/register", entry) == 200
    assert await status(consul, own, "PUT", "/v1/kv/registry/ids/orders-1", {"owner": "orders"}) == 200
    assert await status(consul, own, "PUT", "/v1/session/create", {"TTL": "10s"}) == 200
    assert await status(consul, own, "PUT", "/v1/kv/config/orders/limit", 6) == 403
    assert await status(consul, own, "PUT", "/v1/catalog/register", {**entry, "Node": "another"}) == 403
    assert await status(consul, own, "PUT", "/v1/catalog/register", {**entry, "Service": {"Service": "consul"}}) == 403


async def test_only_the_config_service_writes_configuration(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "config")
    assert await status(consul, token("config"), "PUT", "/v1/kv/config/orders/limit", 5) == 200
    assert await status(consul, token("config"), "PUT", "/v1/kv/registry/ids/orders-1", {}) == 403


async def test_no_client_reads_or_writes_what_generation_there_is(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, *ROLES)
    for name in ROLES:
        assert await status(consul, token(name), "GET", "/v1/kv/groundwork/generation") == 403
        assert await status(consul, token(name), "PUT", "/v1/kv/groundwork/generation", 9) == 403


async def test_without_a_token_nothing_is_told(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "orders")
    async with consul.api("") as anonymous, anonymous.get("/v1/catalog/services") as answer:
        assert await answer.json() == {}
    assert await status(consul, None, "GET", "/v1/kv/config/orders/limit") == 403


async def test_tokens_say_whose_they_are_and_of_which_generation(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "orders")
    await consul.apply(tmp_path, ["orders"], 2)
    assert {"groundwork: agent.2", "groundwork: orders.1", "groundwork: orders.2"} <= await names_of(consul, "tokens", "Description")


async def test_a_token_that_is_not_of_a_generation_outlives_all_of_them(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "orders")
    before = (await consul.accounts())["agent.1"]
    await consul.apply(tmp_path, ["orders"], 2, retire=True)
    assert (await consul.accounts())["agent.2"] == before


async def test_what_a_retired_token_wrote_is_kept(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "config")
    assert await status(consul, token("config"), "PUT", "/v1/kv/config/orders/limit", 5) == 200
    await consul.apply(tmp_path, ["config"], 2, retire=True)
    assert await status(consul, token("config"), "GET", "/v1/kv/config/orders/limit") == 403
    assert await status(consul, token("config", 2), "GET", "/v1/kv/config/orders/limit") == 200


async def test_a_changed_rule_is_applied_to_the_policy_that_is_there(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "orders")
    granted = {"name": "orders", "token": token("orders"), "rules": {"key_prefix": {"config/": {"policy": "write"}}}}
    state = consul.state([])
    run = await consul.run(tmp_path, {**state, "tokens": [*entries(state["tokens"]), granted]})
    assert "1 of them changed" in run.last
    assert await status(consul, token("orders"), "PUT", "/v1/kv/config/orders/limit", 6) == 200


async def test_a_client_that_is_removed_loses_its_token_and_policy_and_others_stay(consul: RoledConsul, tmp_path: Path) -> None:
    (by_hand,) = entries([await consul.call("PUT", "/v1/acl/token", {"Description": "made by hand"})])
    await apply(consul, tmp_path, "orders", "config")
    kept = await consul.apply(tmp_path, ["orders"])
    assert "removed" not in kept.output
    assert "groundwork-config" in await names_of(consul, "policies", "Name")
    run = await apply(consul, tmp_path, "orders")
    assert "what was written with it is kept" in run.output
    assert await status(consul, token("config"), "GET", "/v1/acl/token/self") == 403
    assert "groundwork-config" not in await names_of(consul, "policies", "Name")
    assert by_hand["AccessorID"] in await names_of(consul, "tokens", "AccessorID")


async def test_rights_that_were_added_to_a_token_by_hand_are_taken(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "orders")
    accessor = (await consul.accounts())["orders.1"]
    (mine,) = entries([await consul.call("GET", f"/v1/acl/token/{accessor}")])
    mighty = {**mine, "Policies": [{"Name": "groundwork-orders"}, {"Name": "global-management"}]}
    assert await consul.call("PUT", f"/v1/acl/token/{accessor}", mighty) is not None
    assert await status(consul, token("orders"), "GET", "/v1/acl/tokens") == 200
    await apply(consul, tmp_path, "orders")
    assert await status(consul, token("orders"), "GET", "/v1/acl/tokens") == 403


async def test_no_token_reaches_the_program_s_output_or_the_server_s_log(consul: RoledConsul, tmp_path: Path) -> None:
    run = await apply(consul, tmp_path, "orders")
    for secret in (token("orders"), consul.node.token):
        assert secret not in run.output
        assert secret not in consul.server.log_text()


async def test_it_waits_for_a_server_that_starts_with_an_empty_volume(consul: RoledConsul, tmp_path: Path) -> None:
    await apply(consul, tmp_path, "orders")
    consul.server.kill()
    consul.server.wipe()
    (tmp_path / LOG).unlink()
    waiting = asyncio.create_task(apply(consul, tmp_path, "orders"))
    await said(tmp_path, "waiting for Consul")
    consul.server.spawn()
    await waiting
    assert await status(consul, token("orders"), "GET", "/v1/acl/token/self") == 200


async def test_a_wrong_management_token_is_said_with_the_fix(consul: RoledConsul, tmp_path: Path) -> None:
    state = consul.state([])
    run = await asyncio.to_thread(accounts, "consul", consul.server, tmp_path, state, admin=str(uuid.uuid4()), wait_seconds=2)
    assert run.code == 1
    assert "created with another one" in run.last
