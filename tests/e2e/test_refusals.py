"""What the platform promises to refuse, tried on the running engines: a wrong password, a connection in clear, a pod without an edge."""

# pyright: basic, reportOptionalMemberAccess=false, reportReturnType=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import asyncio
import socket
import ssl

import aio_pika
import aiormq
import asyncpg
import httpx2
import pytest
import redis
from kubernetes import client
from redis.exceptions import NoPermissionError

from tests.e2e.cluster import Platform, eventually

SERVICE = "document-service"


@pytest.fixture
def verified(platform: Platform) -> ssl.SSLContext:
    """TLS that trusts the stack's CA alone and checks the server's name."""
    return ssl.create_default_context(cafile=platform.ca_file())


async def postgres(platform: Platform, tls: ssl.SSLContext | bool, password: str) -> object:
    endpoint = platform.outputs.endpoints["postgres"]
    user = platform.credential("postgres", SERVICE)["username"]
    connection = await asyncpg.connect(
        host=endpoint.host, port=endpoint.port, user=user, password=password, database="document_service", ssl=tls, timeout=10
    )
    try:
        return await connection.fetchval("select 1")
    finally:
        await connection.close(timeout=5)


async def test_postgres_takes_the_right_password(platform: Platform, verified: ssl.SSLContext) -> None:
    assert await postgres(platform, verified, platform.credential("postgres", SERVICE)["password"]) == 1


async def test_postgres_refuses_a_wrong_password(platform: Platform, verified: ssl.SSLContext) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await postgres(platform, verified, "wrong")


async def test_postgres_refuses_a_connection_in_clear(platform: Platform) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"no encryption|pg_hba"):
        await postgres(platform, tls=False, password=platform.credential("postgres", SERVICE)["password"])


async def test_postgres_keeps_a_service_out_of_another_ones_database(platform: Platform, verified: ssl.SSLContext) -> None:
    endpoint, own = platform.outputs.endpoints["postgres"], platform.credential("postgres", SERVICE)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(
            host=endpoint.host, port=endpoint.port, user=own["username"], password=own["password"], database="user_service", ssl=verified, timeout=10
        )


def cache(platform: Platform, password: str, *, tls: bool = True) -> redis.Redis:
    endpoint = platform.outputs.endpoints["redis"]
    user = platform.credential("redis", SERVICE)["username"]
    if not tls:
        return redis.Redis(host=endpoint.host, port=endpoint.port, username=user, password=password, socket_timeout=5)
    return redis.Redis(
        host=endpoint.host, port=endpoint.port, username=user, password=password, ssl=True, ssl_ca_certs=platform.ca_file(), socket_timeout=5
    )


def test_redis_takes_the_right_password(platform: Platform) -> None:
    with cache(platform, platform.credential("redis", SERVICE)["password"]) as connection:
        assert connection.set(f"{SERVICE}:e2e", "here", ex=60)


def test_redis_refuses_a_wrong_password(platform: Platform) -> None:
    with cache(platform, "wrong") as connection, pytest.raises(redis.AuthenticationError):
        connection.ping()


def test_redis_refuses_a_connection_in_clear(platform: Platform) -> None:
    with cache(platform, platform.credential("redis", SERVICE)["password"], tls=False) as connection, pytest.raises(redis.ConnectionError):
        connection.ping()


def test_redis_keeps_a_service_to_its_own_keys(platform: Platform) -> None:
    with cache(platform, platform.credential("redis", SERVICE)["password"]) as connection, pytest.raises(NoPermissionError):
        connection.get("user-service:anything")


def amqps(platform: Platform, password: str) -> str:
    endpoint, own = platform.outputs.endpoints["rabbitmq"], platform.credential("rabbitmq", SERVICE)
    return f"amqps://{own['username']}:{password}@{endpoint.host}:{endpoint.port}/{SERVICE}"


async def test_rabbitmq_takes_the_right_password(platform: Platform, verified: ssl.SSLContext) -> None:
    connection = await aio_pika.connect(amqps(platform, platform.credential("rabbitmq", SERVICE)["password"]), ssl_context=verified, timeout=10)
    await connection.close()


async def test_rabbitmq_refuses_a_wrong_password(platform: Platform, verified: ssl.SSLContext) -> None:
    with pytest.raises((aiormq.exceptions.ProbableAuthenticationError, aiormq.exceptions.AMQPConnectionError)):
        await aio_pika.connect(amqps(platform, "wrong"), ssl_context=verified, timeout=10)


async def test_rabbitmq_refuses_a_connection_in_clear(platform: Platform) -> None:
    endpoint = platform.outputs.endpoints["rabbitmq"]
    reader, writer = await asyncio.wait_for(asyncio.open_connection(endpoint.host, endpoint.port), 5)
    writer.write(b"AMQP\x00\x00\x09\x01")
    answer = await asyncio.wait_for(reader.read(64), 5)
    writer.close()
    assert b"AMQP" not in answer
    assert b"RabbitMQ" not in answer


def test_rabbitmq_listens_on_no_port_in_clear(platform: Platform) -> None:
    with pytest.raises(OSError, match=r"refused|timed out|No route"):
        socket.create_connection((platform.outputs.endpoints["rabbitmq"].host, 5672), timeout=3)


def consul(platform: Platform, token: str, path: str) -> httpx2.Response:
    endpoint = platform.outputs.endpoints["consul"]
    with httpx2.Client(verify=ssl.create_default_context(cafile=platform.ca_file()), timeout=10) as session:
        return session.get(f"https://{endpoint.host}:{endpoint.port}{path}", headers={"X-Consul-Token": token})


def test_consul_takes_the_right_token(platform: Platform) -> None:
    assert consul(platform, platform.credential("consul", SERVICE)["token"], "/v1/health/service/registry").status_code == 200


def test_consul_refuses_a_wrong_token(platform: Platform) -> None:
    assert consul(platform, "00000000-0000-4000-8000-000000000000", "/v1/kv/config/?recurse").status_code == 403


def test_consul_keeps_a_reader_from_writing(platform: Platform) -> None:
    endpoint, token = platform.outputs.endpoints["consul"], platform.credential("consul", SERVICE)["token"]
    with httpx2.Client(verify=ssl.create_default_context(cafile=platform.ca_file()), timeout=10) as session:
        answer = session.put(f"https://{endpoint.host}:{endpoint.port}/v1/kv/config/e2e", content=b"1", headers={"X-Consul-Token": token})
    assert answer.status_code == 403


def test_consul_refuses_a_request_in_clear(platform: Platform) -> None:
    endpoint = platform.outputs.endpoints["consul"]
    with httpx2.Client(timeout=5) as session:
        answer = session.get(f"http://{endpoint.host}:{endpoint.port}/v1/status/leader")
    assert answer.status_code == 400  # Go's answer to plain HTTP on a TLS port


def test_the_registry_refuses_a_caller_without_a_token(platform: Platform) -> None:
    body = {"service_name": "intruder", "service_id": "intruder-1", "address": "10.244.0.9", "port": 8000}
    with platform.http("registry") as session:
        assert session.post("/api/v1/services/register", json=body).status_code == 401


PROBE_SECONDS = 20  # a network plugin may take a moment to learn of a new pod's address
PROBE = """
import socket, time
seen, end = "closed", time.monotonic() + {seconds}
while seen == "closed" and time.monotonic() < end:
    try:
        socket.create_connection(("{host}", {port}), 3).close()
        seen = "open"
    except OSError:
        time.sleep(0.5)
print(seen)
"""


def probe_pod(platform: Platform, name: str, workload: str, host: str, port: int) -> str:
    """What a pod that is labelled as `workload` sees of `host`:`port` within 20 seconds: `open` or `closed`."""
    image = platform.pods("document-service")[0].spec.containers[0].image
    script = PROBE.format(host=host, port=port, seconds=PROBE_SECONDS)
    pod = client.V1Pod(
        metadata=client.V1ObjectMeta(
            name=name, labels={"app.kubernetes.io/name": workload, "app.kubernetes.io/instance": platform.stack.name, "groundwork/e2e": "probe"}
        ),
        spec=client.V1PodSpec(
            restart_policy="Never",
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=client.V1PodSecurityContext(
                run_as_non_root=True, run_as_user=10001, seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault")
            ),
            containers=[
                client.V1Container(
                    name="probe",
                    image=image,
                    args=["-c", script],
                    resources=client.V1ResourceRequirements(
                        requests={"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "1Mi"},
                        limits={"cpu": "100m", "memory": "32Mi", "ephemeral-storage": "1Mi"},
                    ),
                    security_context=client.V1SecurityContext(
                        allow_privilege_escalation=False, read_only_root_filesystem=True, capabilities=client.V1Capabilities(drop=["ALL"])
                    ),
                )
            ],
        ),
    )
    platform.core.create_namespaced_pod(platform.namespace, pod)
    try:

        def finished() -> str | None:
            phase = platform.core.read_namespaced_pod(name, platform.namespace).status.phase
            return phase if phase in {"Succeeded", "Failed"} else None

        assert eventually(f"pod {name} ends", finished, seconds=90) == "Succeeded"
        return platform.core.read_namespaced_pod_log(name, platform.namespace).strip()
    finally:
        platform.core.delete_namespaced_pod(name, platform.namespace, grace_period_seconds=0)


def address(platform: Platform, service: str) -> str:
    return platform.core.read_namespaced_service(service, platform.namespace).spec.cluster_ip


def test_a_pod_with_an_edge_reaches_the_engine(platform: Platform) -> None:
    assert probe_pod(platform, "e2e-allowed", "postgres-accounts", address(platform, "postgres"), 5432) == "open"


def test_a_pod_without_an_edge_is_refused_by_the_network(platform: Platform) -> None:
    assert probe_pod(platform, "e2e-denied", "intruder", address(platform, "postgres"), 5432) == "closed"


def test_a_service_reaches_only_the_engines_it_uses(platform: Platform) -> None:
    assert probe_pod(platform, "e2e-other", "postgres-accounts", address(platform, "redis"), 6379) == "closed"


def test_a_pod_that_runs_as_root_is_refused_before_it_starts(platform: Platform) -> None:
    root = client.V1Pod(
        metadata=client.V1ObjectMeta(name="e2e-root"), spec=client.V1PodSpec(containers=[client.V1Container(name="root", image="localhost/x:1")])
    )
    with pytest.raises(client.ApiException, match="violates PodSecurity"):
        platform.core.create_namespaced_pod(platform.namespace, root)
