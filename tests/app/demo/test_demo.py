"""The demo: one request through both services proves registration, discovery, configuration and all four engines."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.app import servers
from tests.app.auth.issuer import Issuer, issuer
from tests.app.pki import Authority
from tests.app.platform.world import Service, call, eventually, make, running
from tests.app.processes import free_port

SCOPES = ["registry:read", "registry:write", "config:read", "config:write"]


@dataclass
class World:
    postgres: servers.Postgres
    redis: servers.Redis
    rabbitmq: servers.RabbitMq
    consul: servers.Consul
    issuer: Issuer
    registries: tuple[Service, Service]
    config: Service
    users: Service
    documents: Service

    def author(self) -> str:
        answer = call("POST", f"{self.users.url}/api/v1/users", {"name": "Ada", "email": f"{uuid4()}@example.org"})
        assert answer.status == 201, answer
        return str(answer.json()["id"])

    def post(self, author: str, body: str = "hello groundwork") -> str:
        answer = call("POST", f"{self.documents.url}/api/v1/documents", {"title": "First", "body": body, "author_id": author})
        assert answer.status == 201, (answer, self.documents.tail())
        return str(answer.json()["id"])

    def get(self, document: str) -> dict[str, object]:
        answer = call("GET", f"{self.documents.url}/api/v1/documents/{document}")
        return answer.json() if answer.status == 200 else {}

    def indexed(self, document: str) -> bool:
        return self.get(document).get("indexed") is True


def credentials(folder: Path, name: str, username: str, password: str) -> str:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "username").write_text(username)
    (folder / name / "password").write_text(password)
    return str(folder / name)


def token(folder: Path, name: str, value: str) -> str:
    (folder / name).write_text(value)
    return str(folder / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    authority, folder = Authority(), tmp_path_factory.mktemp("world")
    with (
        servers.postgres(authority) as postgres,
        servers.redis(authority) as redis,
        servers.rabbitmq(authority) as rabbitmq,
        servers.consul(authority) as consul,
        issuer() as tokens,
    ):
        ca = str(postgres.ca)
        consul_section = {"address": consul.address, "ca": ca, "token_file": token(folder, "consul-token", consul.token)}
        auth = {"issuers": [tokens.settings.model_dump(mode="json") | {"scopes": SCOPES}]}
        database = {"host": postgres.host, "port": postgres.port, "ca": ca, "database": "postgres"}
        database["credentials"] = credentials(folder, "postgres", postgres.username, postgres.password)
        cache = {"host": redis.host, "port": redis.port, "ca": ca, "key_prefix": "document-service:", "required": False}
        cache["credentials"] = credentials(folder, "redis", redis.username, redis.password)
        queue = {"host": rabbitmq.host, "port": rabbitmq.port, "ca": ca, "credentials": credentials(folder, "rabbitmq", "admin", rabbitmq.password)}
        own: dict[str, object] = {"consul": consul_section | {"required": True}, "auth": auth}
        registries = tuple(make("registry", ["app", "registry"], folder, own, instance=f"registry-{n}") for n in (1, 2))
        config = make("config", ["app", "config"], folder, own)

        def team(name: str, **sections: object) -> Service:
            at = {"url": registries[0].url, "token_file": token(folder, f"{name}-token", tokens.account(name))}
            return make(name, [f"demo.{name.replace('-', '_')}"], folder, {"registry": at, "consul": consul_section, "auth": auth, **sections})

        users = team("user-service", postgres=database)
        documents = team("document-service", postgres=database, redis=cache, rabbitmq=queue)
        with running(*registries, config, users, documents):
            yield World(postgres, redis, rabbitmq, consul, tokens, (registries[0], registries[1]), config, users, documents)


def headers(world: World, account: str = "tester") -> dict[str, str]:
    return {"Authorization": f"Bearer {world.issuer.account(account)}"}


def test_a_document_is_indexed_through_the_queue_and_then_read_from_the_cache(world: World) -> None:
    document = world.post(world.author(), "hello groundwork")
    eventually(lambda: world.get(document).get("source") == "cache", 30, f"not cached: {world.get(document)} {world.documents.tail()}")
    found = call("GET", f"{world.documents.url}/api/v1/documents?q=groundwork").body
    assert document in found.decode()
    assert world.get(document)["indexed"] is True


def test_an_unknown_author_is_refused_by_the_user_service(world: World) -> None:
    answer = call("POST", f"{world.documents.url}/api/v1/documents", {"title": "x", "body": "y", "author_id": str(uuid4())})
    assert answer.status == 400
    assert "author_id" in str(answer.json()["detail"])


def test_a_changed_limit_counts_without_a_restart(world: World) -> None:
    author, limits = world.author(), f"{world.config.url}/api/v1/config/document-service/limits"
    created = call("PUT", limits, {"max_body_chars": 10}, headers=headers(world))
    assert created.status == 201, created
    url = f"{world.documents.url}/api/v1/documents"
    eventually(lambda: call("POST", url, {"title": "x", "body": "y" * 11, "author_id": author}).status == 413, 30, "the limit never counted")
    removed = call("DELETE", limits, headers=headers(world) | {"If-Match": created.headers["etag"]})
    assert removed.status == 204
    eventually(lambda: call("POST", url, {"title": "x", "body": "y" * 11, "author_id": author}).status == 201, 30, "the default never came back")


def test_both_replicas_of_the_registry_tell_the_same(world: World) -> None:
    for registry in world.registries:
        answer = call("GET", f"{registry.url}/api/v1/services/discover/user-service", headers=headers(world))
        assert answer.status == 200
        assert b'"service_id":"user-service-1"' in answer.body


@pytest.mark.parametrize("engine", ["postgres", "redis", "rabbitmq", "consul"])
def test_every_accepted_document_survives_a_killed_engine(world: World, engine: str) -> None:
    """Killed and started again; for Redis also empty."""
    author = world.author()
    server = getattr(world, engine)
    accepted = [world.post(author, f"before {engine}")]
    server.kill()
    for number in range(5):
        answer = call("POST", f"{world.documents.url}/api/v1/documents", {"title": "During", "body": f"{engine} {number}", "author_id": author})
        if answer.status == 201:
            accepted.append(str(answer.json()["id"]))
        else:
            assert answer.status == 503, answer
            assert answer.headers["content-type"] == "application/problem+json"
    if engine == "redis":
        server.wipe()
    server.start()
    for document in accepted:
        eventually(lambda found=document: world.indexed(found), 60, f"{document} is not indexed: {world.documents.tail()}")


def test_a_rolling_restart_of_the_users_fails_no_request(world: World) -> None:
    """A second instance comes, the first one goes: no document is refused meanwhile."""
    author = world.author()
    second = make("user-service", world.users.command, world.users.folder, world.users.settings | {"instance_id": "user-service-2"} | _ports())
    statuses: list[int] = []

    async def load(stop: asyncio.Event) -> None:
        while not stop.is_set():
            answer = await asyncio.to_thread(
                call, "POST", f"{world.documents.url}/api/v1/documents", {"title": "t", "body": "rolling", "author_id": author}
            )
            statuses.append(answer.status)

    async def roll() -> None:
        stop = asyncio.Event()
        loads = [asyncio.create_task(load(stop)) for _ in range(2)]
        second.start()
        await asyncio.to_thread(second.wait_ready)
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(world.users.stop) == 0
        await asyncio.sleep(0.5)
        world.users.start()
        await asyncio.to_thread(world.users.wait_ready)
        stop.set()
        await asyncio.gather(*loads)

    try:
        asyncio.run(roll())
    finally:
        assert second.stop() == 0
    assert set(statuses) == {201}, (len(statuses), statuses)


def _ports() -> dict[str, object]:
    return {"http_port": free_port(), "metrics_port": free_port()}


def test_no_secret_leaves_the_services(world: World) -> None:
    """Passwords and tokens stand neither in logs nor in health, metrics or problems."""
    secrets = {world.postgres.password, world.redis.password, world.rabbitmq.password, world.consul.token}
    texts: list[str] = []
    for service in (*world.registries, world.config, world.users, world.documents):
        texts.append(service.log.read_text())
        texts += [call("GET", service.url + path).body.decode() for path in ("/health", "/health/ready", "/nothing-here")]
        texts.append(call("GET", service.metrics_url).body.decode())
    assert all(texts)
    for secret in secrets:
        assert all(secret not in text for text in texts)
    assert all("eyJ" not in text for text in texts), "a token was logged"
