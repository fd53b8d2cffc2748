"""PostgreSQL, Redis, RabbitMQ and Consul behind one face."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256

import aio_pika
import aiohttp
import asyncpg
from aiormq.exceptions import AMQPError
from asyncpg import Connection, Record
from redis import exceptions
from redis.asyncio import Redis as RedisClient

from components.consul import ConsulRole, agent_rules, rules
from components.lib.redis_rules import redis_rules
from tests.app import servers
from tests.app.accounts.kind import Alive, Kind, Refused, account, entries
from tests.app.accounts.runs import login, password
from tests.app.pki import Authority, Leaf
from tests.app.servers import Consul, Postgres, RabbitMq, Redis


class PostgresKind(Kind):
    """PostgreSQL."""

    name = "postgres"

    def make(self) -> Postgres:
        return Postgres(self.authority)

    def client(self, name: str, generation: int) -> dict[str, object]:
        return {"name": name, "login": login(name, generation), "password": password(name, generation), "database": name}

    async def session(self, name: str, secret: str, generation: int) -> AsyncGenerator[Alive]:
        try:
            async with self.connection(account(name, generation), secret, name) as opened:

                async def alive() -> None:
                    await opened.fetchval("SELECT 1")

                yield alive
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError):
            raise Refused from None

    @asynccontextmanager
    async def connection(self, user: str, secret: str, database: str = "postgres") -> AsyncGenerator[Connection[Record]]:
        """A connection as anybody."""
        opened: Connection[Record] = await asyncpg.connect(
            host=self.server.host, port=self.server.port, user=user, password=secret, database=database, ssl=self.trust(), timeout=60
        )
        try:
            yield opened
        finally:
            await opened.close()

    @asynccontextmanager
    async def admin(self, database: str = "postgres") -> AsyncGenerator[Connection[Record]]:
        """A connection as the administrator."""
        async with self.connection(self.server.username, self.server.password, database) as opened:
            yield opened

    async def accounts(self) -> Mapping[str, object]:
        query = """
            SELECT rolname, rolcanlogin, rolpassword, rolconfig,
                   ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = oid ORDER BY 1) AS groups,
                   ARRAY(SELECT datname::text FROM pg_database WHERE datdba = oid ORDER BY 1) AS databases
            FROM (SELECT a.*, r.rolconfig FROM pg_authid a JOIN pg_roles r ON r.oid = a.oid) AS all_roles
            WHERE rolname !~ '^pg_' AND rolname <> 'postgres'
        """
        async with self.admin() as admin:
            return {row["rolname"]: tuple(row)[1:] for row in await admin.fetch(query)}

    async def make_old(self, name: str) -> None:
        async with self.admin() as admin:
            await admin.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password(name, 0)}'")
            await admin.execute(f"COMMENT ON ROLE \"{name}\" IS 'managed by groundwork'")
            await admin.execute(f'CREATE DATABASE "{name}" OWNER "{name}"')
            await admin.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')

    async def forget(self) -> None:
        async with self.admin() as admin:
            await admin.execute("ALTER DATABASE postgres RESET ALL")

    async def clear(self) -> None:
        async with self.admin() as admin:
            for row in await admin.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"):
                await admin.execute(f'DROP DATABASE "{row["datname"]}" WITH (FORCE)')
            for row in await admin.fetch("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'"):
                await admin.execute(f'DROP ROLE "{row["rolname"]}"')
        await self.forget()


class RedisKind(Kind):
    """Redis, with the access list on its volume."""

    name = "redis"

    def make(self) -> Redis:
        return Redis(self.authority, managed=True)

    def client(self, name: str, generation: int) -> dict[str, object]:
        rules_ = redis_rules([f"{name}:*"], [f"{name}:*"])
        return {"name": name, "login": login(name, generation), "password": password(name, generation), "rules": rules_}

    @asynccontextmanager
    async def connection(self, user: str, secret: str) -> AsyncGenerator[RedisClient]:
        """A client as anybody, on one connection."""
        async with RedisClient(
            host=self.server.host,
            port=self.server.port,
            username=user,
            password=secret,
            ssl=True,
            ssl_ca_certs=str(self.server.ca),
            socket_timeout=30,
            socket_connect_timeout=60,
            single_connection_client=True,
            decode_responses=True,
        ) as client:
            yield client

    def administer(self, *words: str) -> str:
        """The answer to one command of the administrator, as JSON: by redis-cli, which needs no event loop."""
        server = self.server
        place = ["-h", server.host, "-p", str(server.port), "--tls", "--cacert", str(server.ca), "--user", server.username]
        done = subprocess.run(
            ["redis-cli", *place, "--no-auth-warning", "--json", "-e", *words],
            env={"PATH": os.environ["PATH"], "REDISCLI_AUTH": server.password},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    async def ask(self, *words: str, user: str | None = None, secret: str = "") -> object:
        """The answer to one command, as the administrator or as somebody else; an error is an answer, too."""
        identity = (self.server.username, self.server.password) if user is None else (user, secret)
        async with self.connection(*identity) as client:
            return await client.execute_command(*words)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    async def session(self, name: str, secret: str, generation: int) -> AsyncGenerator[Alive]:
        try:
            async with self.connection(account(name, generation), secret) as client:
                # One connection for the whole session: redis-py would open the next one by itself, and be refused.
                connection = await client.connection_pool.get_connection()

                async def alive() -> None:
                    await connection.send_command("PING", check_health=False)
                    assert await connection.read_response() == "PONG"

                try:
                    yield alive
                finally:
                    await connection.disconnect()
                    await client.connection_pool.release(connection)
        except exceptions.AuthenticationError:
            raise Refused from None

    async def accounts(self) -> Mapping[str, object]:
        lines = await self.ask("ACL LIST")
        assert isinstance(lines, list)
        users = {str(line).split()[1]: str(line) for line in lines}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return {name: line for name, line in users.items() if name not in {"admin", "probe", "default"} and ":" not in name}

    async def make_old(self, name: str) -> None:
        hashed = sha256(password(name, 0).encode()).hexdigest()
        await self.ask("ACL SETUSER", name, "on", f"#{hashed}", f"~{name}:*", "+@all", "-@admin", "-@dangerous")

    async def forget(self) -> None:
        users = await self.ask("ACL USERS")
        assert isinstance(users, list)
        for name in map(str, users):  # pyright: ignore[reportUnknownArgumentType]
            if ":" in name:
                await self.ask("ACL DELUSER", name)

    async def clear(self) -> None:
        for name in await self.accounts():
            await self.ask("ACL DELUSER", name)
        await self.forget()
        await self.ask("FLUSHALL")
        await self.ask("ACL SAVE")


class RabbitmqKind(Kind):
    """RabbitMQ."""

    name = "rabbitmq"
    node: RabbitMq

    def make(self) -> RabbitMq:
        self.node = RabbitMq(self.authority)
        return self.node

    def port(self) -> int:
        return self.node.management_port

    def state(self, names: Sequence[str], generation: int = 1, *, retire: bool = False, certificate: str | None = None) -> dict[str, object]:
        return {**super().state(names, generation, retire=retire, certificate=certificate), "amqp_port": self.server.port}

    def client(self, name: str, generation: int) -> dict[str, object]:
        return {"name": name, "login": login(name, generation), "password": password(name, generation), "vhost": name}

    async def session(self, name: str, secret: str, generation: int) -> AsyncGenerator[Alive]:
        try:
            connection = await aio_pika.connect(
                host=self.server.host,
                port=self.server.port,
                login=account(name, generation),
                password=secret,
                virtualhost=name,
                ssl=True,
                ssl_context=self.trust(),
                timeout=60,
            )
        except AMQPError:
            raise Refused from None
        async with connection:

            async def alive() -> None:
                async with connection.channel() as channel:
                    await channel.declare_queue("", exclusive=True)

            yield alive

    @asynccontextmanager
    async def admin(self) -> AsyncGenerator[aiohttp.ClientSession]:
        """The management API as the administrator."""
        headers = {"Authorization": aiohttp.encode_basic_auth(self.server.username, self.server.password)}
        base = f"https://localhost:{self.port()}"
        async with aiohttp.ClientSession(base_url=base, headers=headers, connector=aiohttp.TCPConnector(ssl=self.trust())) as session:
            yield session

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        """Status and JSON of an answer of the management API."""
        async with self.admin() as admin, admin.request(method, path, json=body) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def accounts(self) -> Mapping[str, object]:
        users = entries((await self.call("GET", "/api/users"))[1])
        permissions = entries((await self.call("GET", "/api/permissions"))[1])
        return {
            str(user["name"]): (user["password_hash"], user["tags"], [each for each in permissions if each["user"] == user["name"]])
            for user in users
            if user["name"] != self.server.username
        }

    async def make_old(self, name: str) -> None:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        for path, body in (
            (f"vhosts/{name}", {}),
            (f"users/{name}", {"password": password(name, 0), "tags": "groundwork"}),
            (f"permissions/{name}/{name}", everything),
        ):
            status, _ = await self.call("PUT", f"/api/{path}", body)
            assert status == 201

    async def forget(self) -> None:
        await self.call("DELETE", "/api/global-parameters/groundwork")

    async def clear(self) -> None:
        for kind in ("users", "vhosts"):
            found = entries((await self.call("GET", f"/api/{kind}"))[1])
            for name in {entry["name"] for entry in found} - {self.server.username, "/"}:
                status, _ = await self.call("DELETE", f"/api/{kind}/{name}")
                assert status == 204
        await self.forget()


class ConsulKind(Kind):
    """Consul."""

    name = "consul"
    node: Consul
    AGENT = str(uuid.uuid5(uuid.NAMESPACE_DNS, "agent"))

    def __init__(self, authority: Authority | None = None, host: str = "127.0.0.1") -> None:
        self.host = host
        super().__init__(authority)

    def make(self) -> Consul:
        self.node = Consul(self.authority, host=self.host)
        return self.node

    def issue(self) -> Leaf:
        return self.authority.issue("consul", servers.CONSUL_NAMES, servers.CONSUL_IPS)

    def state(self, names: Sequence[str], generation: int = 1, *, retire: bool = False, certificate: str | None = None) -> dict[str, object]:
        return {
            "host": self.server.host,
            "port": self.server.port,
            "servers": [self.server.host],
            "generation": generation,
            "retire": retire,
            "certificate": certificate,
            "tokens": [
                {"name": "agent", "token": self.AGENT, "rules": agent_rules()},  # made once, like the administrator's: not of a generation
                *(self.client(name, generation) for name in names),
            ],
        }

    def client(self, name: str, generation: int) -> dict[str, object]:
        return {"name": name, "token": self.token(password(name, generation)), "rules": rules((ConsulRole.READER,))}

    @staticmethod
    def token(secret: str) -> str:
        """A secret in the form of a token."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, secret))

    @asynccontextmanager
    async def api(self, token: str) -> AsyncGenerator[aiohttp.ClientSession]:
        """The API with a token, on one connection."""
        connector = aiohttp.TCPConnector(ssl=self.trust(), limit=1)
        async with aiohttp.ClientSession(base_url=self.node.address, headers={"X-Consul-Token": token}, connector=connector) as session:
            yield session

    async def session(self, name: str, secret: str, generation: int) -> AsyncGenerator[Alive]:
        del name, generation
        async with self.api(self.token(secret)) as api:

            async def alive() -> None:
                async with api.get("/v1/acl/token/self") as answer:
                    if answer.status != 200:
                        raise PermissionError(await answer.text())

            try:
                await alive()
            except PermissionError:
                raise Refused from None
            yield alive

    async def call(self, method: str, path: str, body: object = None) -> object:
        """An answer of the API to the management token."""
        async with self.api(self.node.token) as api, api.request(method, path, json=body) as answer:
            text = await answer.text()
            return json.loads(text) if answer.status == 200 else None

    async def accounts(self) -> Mapping[str, object]:
        tokens = entries(await self.call("GET", "/v1/acl/tokens"))
        found = {str(token["Description"]): token["AccessorID"] for token in tokens}
        return {name.removeprefix("groundwork: "): accessor for name, accessor in found.items() if name.startswith("groundwork: ")}

    async def make_old(self, name: str) -> None:
        body = {"SecretID": self.token(password(name, 0)), "Description": f"groundwork: {name}"}
        assert await self.call("PUT", "/v1/acl/token", body) is not None

    async def forget(self) -> None:
        await self.call("DELETE", "/v1/kv/groundwork?recurse=true")

    async def clear(self) -> None:
        for kind, key in (("token", "AccessorID"), ("policy", "ID")):
            for entry in entries(await self.call("GET", f"/v1/acl/{'tokens' if kind == 'token' else 'policies'}")):
                if "groundwork" in f"{entry.get('Description', '')}{entry.get('Name', '')}":
                    await self.call("DELETE", f"/v1/acl/{kind}/{entry[key]}")
        await self.forget()


KINDS: Mapping[str, type[Kind]] = {kind.name: kind for kind in (PostgresKind, RedisKind, RabbitmqKind, ConsulKind)}
