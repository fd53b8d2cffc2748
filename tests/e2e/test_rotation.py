"""Bumping `rotation` changes every client's credentials: the old ones are refused, the new ones work, nothing is lost, nobody is refused."""

from __future__ import annotations

import ssl

import aio_pika
import aiormq
import asyncpg
import httpx2
import pytest
import redis

from tests.e2e.cluster import Platform, eventually
from tests.e2e.demo import creating, documents

SERVICE = "document-service"
ENGINES = ("postgres", "redis", "rabbitmq", "consul")


async def test_a_rotation_changes_all_credentials_and_refuses_no_request(platform: Platform) -> None:
    work = documents(platform)
    old = {engine: platform.credential(engine, SERVICE) for engine in ENGINES}
    rotation = 1 + int(old["postgres"]["username"].rpartition(".")[2])

    with creating(work):
        platform.stack.up(f"rotation={rotation}")

    new = {engine: platform.credential(engine, SERVICE) for engine in ENGINES}
    assert {engine for engine in ENGINES if old[engine] == new[engine]} == set()
    assert work.failed == []
    assert len(work.promised) > 20
    await refuses_the_old(platform, old)
    eventually("the service is ready on its new credentials", lambda: platform.all_ready(SERVICE) or None)
    work.all_kept(seconds=60)


async def refuses_the_old(platform: Platform, old: dict[str, dict[str, str]]) -> None:
    """Every engine refuses what was valid before."""
    ends, ca = platform.outputs.endpoints, platform.ca_file()
    tls = ssl.create_default_context(cafile=ca)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=ends["postgres"].host,
            user=old["postgres"]["username"],
            password=old["postgres"]["password"],
            database="document_service",
            ssl=tls,
            timeout=10,
        )
    user, password = old["redis"]["username"], old["redis"]["password"]
    cache = redis.Redis(host=ends["redis"].host, username=user, password=password, ssl=True, ssl_ca_certs=ca)
    with cache as connection, pytest.raises(redis.AuthenticationError):
        connection.ping()  # pyright: ignore[reportUnknownMemberType]
    with httpx2.Client(verify=tls, timeout=10) as session:
        answer = session.get(
            f"https://{ends['consul'].host}:{ends['consul'].port}/v1/kv/config/?recurse", headers={"X-Consul-Token": old["consul"]["token"]}
        )
        assert answer.status_code == 403
    amqps = f"amqps://{old['rabbitmq']['username']}:{old['rabbitmq']['password']}@{ends['rabbitmq'].host}:{ends['rabbitmq'].port}/{SERVICE}"
    with pytest.raises((aiormq.exceptions.ProbableAuthenticationError, aiormq.exceptions.AMQPConnectionError)):
        await aio_pika.connect(amqps, ssl_context=tls, timeout=10)
