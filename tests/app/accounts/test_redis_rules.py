"""What a client of Redis may do and what not, by the rules of its component on a real server, with another client's data there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest
from pydantic import TypeAdapter
from redis import exceptions
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from components.lib.redis_rules import redis_rules
from tests.app.accounts import redis_commands
from tests.app.accounts.kinds import RedisKind
from tests.app.accounts.runs import password

# Commands that name no key and that a client may use: each was thought about. What a newer server has beside them must be, too.
KEYLESS = frozenset(
    {
        # its own connection
        *("auth", "hello", "ping", "echo", "quit", "reset", "wait", "waitaof", "asking", "readonly", "readwrite"),
        *("client|id", "client|info", "client|getname", "client|setname", "client|setinfo", "client|reply", "client|no-touch", "client|help"),
        # the commands that there are, and the time
        *("command", "command|count", "command|docs", "command|getkeys", "command|getkeysandflags", "command|help", "command|info", "command|list"),
        "time",
        # transactions
        *("multi", "exec", "discard", "unwatch"),
        # channels, guarded by their patterns
        *("publish", "spublish", "subscribe", "ssubscribe", "psubscribe", "unsubscribe", "sunsubscribe", "punsubscribe"),
        # scripts, whose commands are guarded one by one; a script is known by its content only
        *("script|load", "script|exists", "script|help"),
        # texts
        *("object|help", "xinfo|help", "xgroup|help"),
    }
)


# How Redis says that somebody may not do something: by itself, and within a script.
REFUSALS = ("NOPERM", "No permissions", "The user executing the script can't", "has no permissions")


@pytest.fixture(scope="module")
def server() -> Generator[RedisKind]:
    """Two clients, each with data of its own. The tests change nothing of that."""
    kind = RedisKind()
    try:
        kind.server.start()
        for name in ("orders", "billing"):
            hashed = sha256(password(name).encode()).hexdigest()
            kind.administer("ACL", "SETUSER", name, "reset", "on", f"#{hashed}", *redis_rules([f"{name}:*"], [f"{name}:*"]))
            kind.administer("SET", f"{name}:1", "x")
            kind.administer("RPUSH", f"{name}:list", "a", "b")
        yield kind
    finally:
        kind.server.close()


@asynccontextmanager
async def client(server: RedisKind, name: str = "orders") -> AsyncGenerator[Redis]:
    async with server.connection(name, password(name)) as opened:
        yield opened


async def call(redis: Redis, *words: str) -> object:
    return await redis.execute_command(*words)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def refused(server: RedisKind, *words: str) -> bool:
    """Whether Redis says that orders may not do that."""
    async with client(server) as orders:
        try:
            await call(orders, *words)
        except NoPermissionError:
            return True
        except ResponseError as error:
            return any(refusal in str(error) for refusal in REFUSALS)
    return False


@pytest.mark.parametrize(
    "command",
    [
        "KEYS *",
        "KEYS orders:*",
        "SCAN 0",
        "SCAN 0 MATCH orders:*",
        "RANDOMKEY",
        "DBSIZE",
        "INFO keyspace",
        "MONITOR",
        "SLOWLOG GET",
        "CLIENT LIST",
        "PUBSUB CHANNELS",
        "PUBSUB NUMSUB billing:paid",
        "PUBSUB NUMPAT",
        "PUBSUB SHARDCHANNELS",
        "MEMORY STATS",
        "MEMORY DOCTOR",
        "LATENCY HISTOGRAM",
        "ACL LIST",
        "ACL USERS",
        "CONFIG GET *",
        "OBJECT ENCODING billing:1",
        "OBJECT FREQ billing:1",
        "EXISTS billing:1",
        "TYPE billing:1",
        "TTL billing:1",
        "TOUCH billing:1",
        "XINFO STREAM billing:1",
        "WATCH billing:1",
        "CLIENT TRACKING ON BCAST",
        "CLIENT TRACKING ON BCAST PREFIX billing:",
        "CLIENT CACHING YES",
        "CLIENT GETREDIR",
        "SUBSCRIBE billing:paid",
        "PSUBSCRIBE *",
        "PSUBSCRIBE billing:*",
        "SSUBSCRIBE billing:paid",
        "SUBSCRIBE __keyevent@0__:set",
        "SUBSCRIBE __redis__:invalidate",
        "SORT orders:list BY billing:* GET billing:*",
        "SORT_RO orders:list BY nosort GET billing:*",
    ],
)
async def test_a_client_sees_no_name_or_trace_of_another_one_s_keys_and_channels(server: RedisKind, command: str) -> None:
    assert await refused(server, *command.split())


@pytest.mark.parametrize(
    "command",
    [
        "GET billing:1",
        "MGET orders:1 billing:1",
        "DEL orders:1 billing:1",
        "RENAME orders:1 billing:1",
        "RENAME billing:1 orders:1",
        "RENAMENX billing:1 orders:9",
        "SMOVE orders:s billing:s x",
        "LMOVE billing:list orders:list LEFT LEFT",
        "BLPOP orders:none billing:list 1",
        "LMPOP 2 orders:list billing:list LEFT",
        "BITOP NOT orders:b billing:1",
        "SUNIONSTORE billing:s orders:s",
        "ZUNIONSTORE orders:z 2 orders:y billing:z",
        "ZUNION 2 orders:y billing:z",
        "ZRANGESTORE orders:z billing:z 0 -1",
        "PFMERGE orders:p billing:p",
        "PFCOUNT billing:p",
        "GEORADIUS orders:g 0 0 1 km STORE billing:g",
        "GEOSEARCHSTORE orders:g billing:g FROMLONLAT 0 0 BYRADIUS 1 km",
        "XREAD STREAMS orders:x billing:x 0 0",
        "XREADGROUP GROUP g c STREAMS billing:x >",
        "LCS orders:1 billing:1",
        "DUMP billing:1",
        "RESTORE billing:1 0 x",
        "MIGRATE 127.0.0.1 1 billing:1 0 1",
        "SORT orders:list STORE billing:list",
        "COPY billing:1 orders:2",
        "COPY orders:1 billing:2",
        "PUBLISH billing:paid 1",
        "SPUBLISH billing:paid 1",
    ],
)
async def test_a_client_does_not_reach_another_one_s_keys_and_channels(server: RedisKind, command: str) -> None:
    assert await refused(server, *command.split())


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "SWAPDB 0 1",
        "SELECT 1",
        "MOVE orders:1 1",
        "COPY orders:1 orders:2 DB 1",
        "FUNCTION LIST",
        "FUNCTION LOAD x",
        "FUNCTION DELETE theirs",
        "FUNCTION FLUSH",
        "FUNCTION DUMP",
        "FUNCTION RESTORE x",
        "FUNCTION KILL",
        "FUNCTION STATS",
        "FCALL theirs 0",
        "FCALL_RO theirs 0",
        "SCRIPT FLUSH",
        "SCRIPT KILL",
        "SCRIPT DEBUG SYNC",
        "CLIENT KILL TYPE normal",
        "CLIENT PAUSE 1",
        "CLIENT UNPAUSE",
        "CLIENT UNBLOCK 1",
        "CLIENT NO-EVICT ON",
        "CONFIG SET maxmemory 1",
        "CONFIG RESETSTAT",
        "SAVE",
        "BGSAVE",
        "BGREWRITEAOF",
        "LASTSAVE",
        "MEMORY PURGE",
        "LATENCY RESET",
        "SLOWLOG RESET",
        "SHUTDOWN NOSAVE",
        "REPLICAOF NO ONE",
        "ROLE",
        "PSYNC x 0",
        "CLUSTER RESET",
        "CLUSTER INFO",
        "FAILOVER",
        "MODULE LIST",
        "ACL SETUSER orders allkeys",
        "ACL SAVE",
        "ACL WHOAMI",
        "PFDEBUG GETREG orders:p",
    ],
)
async def test_a_client_does_not_touch_what_belongs_to_the_server(server: RedisKind, command: str) -> None:
    assert await refused(server, *command.split())


@pytest.mark.parametrize(
    "script",
    [
        "return redis.call('GET', KEYS[1])",
        "return redis.call('GET', 'billing:1')",
        "return redis.pcall('SET', 'billing:1', 'y')",
        "return redis.call('KEYS', '*')",
        "return redis.call('SCAN', '0')",
        "return redis.call('RANDOMKEY')",
        "return redis.call('DBSIZE')",
        "return redis.call('SELECT', '1')",
        "return redis.call('FLUSHALL')",
        "return redis.call('PUBLISH', 'billing:paid', '1')",
    ],
)
async def test_a_script_may_do_what_its_client_may_and_no_more(server: RedisKind, script: str) -> None:
    keys = ("1", "billing:1") if "KEYS[" in script else ("0",)
    assert await refused(server, "EVAL", script, *keys)
    assert await server.ask("GET", "billing:1") == "x"


async def test_a_script_of_another_client_has_the_rights_of_who_calls_it(server: RedisKind) -> None:
    async with client(server, "billing") as billing:
        known = str(await call(billing, "SCRIPT LOAD", "return redis.call('GET', 'billing:1')"))
        assert await call(billing, "EVALSHA", known, "0") == "x"
    assert await refused(server, "EVALSHA", known, "0")


async def decided(server: RedisKind) -> tuple[set[str], dict[str, str]]:
    """All commands that orders may use: those without a key, and what Redis would say where it names another client's key."""
    keyless, keyed = set[str](), dict[str, str]()
    async with server.connection(server.server.username, server.server.password) as admin:
        for command in redis_commands.parse(server.administer("COMMAND")):
            try:
                answer = str(await call(admin, "ACL DRYRUN", "orders", *command.naming("billing:1")))
            except ResponseError as error:
                answer = str(error)
            if "no permissions to run" in answer:
                continue
            if command.keys:
                keyed[command.name] = answer
            else:
                keyless.add(command.name)
    return keyless, keyed


async def test_every_command_without_a_key_that_a_client_may_use_was_thought_about(server: RedisKind) -> None:
    keyless, _ = await decided(server)
    assert len(keyless) > 30
    assert keyless <= KEYLESS


async def test_no_command_at_all_takes_another_one_s_key(server: RedisKind) -> None:
    _, keyed = await decided(server)
    assert len(keyed) > 150
    taken = {name for name, answer in keyed.items() if "no permissions to access the 'billing:1' key" not in answer}
    # Found by a word instead of a place: tried with their words above.
    assert taken <= {"xread", "xreadgroup"}


async def test_a_client_works_with_its_own_keys_as_services_do(server: RedisKind) -> None:
    async with client(server) as orders:
        assert await orders.set("orders:2", "x", ex=60) is True
        async with orders.pipeline(transaction=True) as pipeline:
            pipeline.incr("orders:count")
            pipeline.expire("orders:count", 60)
            assert await pipeline.execute() == [1, True]
            await pipeline.watch("orders:count")
            pipeline.multi()
            pipeline.incr("orders:count")
            assert await pipeline.execute() == [2]
        await call(orders, "HSET", "orders:h", "a", "1")
        await call(orders, "ZADD", "orders:z", "1", "a")
        await call(orders, "PFADD", "orders:p", "a")
        assert await call(orders, "HSCAN", "orders:h", "0")
        assert await call(orders, "OBJECT", "ENCODING", "orders:1")
        assert await call(orders, "TIME")
        assert await call(orders, "WAIT", "0", "1") == 0
        assert await call(orders, "EVAL", "return redis.call('TIME')", "0")
        assert await call(orders, "UNLINK", "orders:2", "orders:count") == 2


async def test_a_client_waits_for_an_element_of_its_list(server: RedisKind) -> None:
    async with client(server) as waiting, client(server) as pushing:
        wait = asyncio.create_task(call(waiting, "BLPOP", "orders:new", "20"))
        await asyncio.sleep(0.1)
        await call(pushing, "RPUSH", "orders:new", "a")
        assert await wait == ("orders:new", "a")


async def test_a_client_reads_its_stream_by_group(server: RedisKind) -> None:
    async with client(server) as orders:
        await call(orders, "XGROUP CREATE", "orders:x", "g", "$", "MKSTREAM")
        await call(orders, "XADD", "orders:x", "*", "a", "1")
        assert await call(orders, "XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "BLOCK", "100", "STREAMS", "orders:x", ">")
        assert await call(orders, "XINFO STREAM", "orders:x")


async def test_a_client_hears_its_own_channels_by_name_and_pattern(server: RedisKind) -> None:
    async with client(server) as hearing, client(server) as telling:
        channel = hearing.pubsub()  # pyright: ignore[reportUnknownMemberType]
        await channel.subscribe("orders:placed")  # pyright: ignore[reportUnknownMemberType]
        await channel.psubscribe("orders:*")  # pyright: ignore[reportUnknownMemberType]
        await call(telling, "PUBLISH", "orders:placed", "1")
        kinds = set[str]()
        while not {"message", "pmessage"} <= kinds:
            message: object = await channel.get_message(timeout=20)  # pyright: ignore[reportUnknownVariableType]
            kinds.add(str(TypeAdapter(dict[str, object]).validate_python(message)["type"]))
        await channel.aclose()


async def test_a_registered_script_works_also_after_the_server_forgot_it(server: RedisKind) -> None:
    async with client(server) as orders:
        script = orders.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert await script(keys=["orders:n"], args=[2]) == 2
        await server.ask("SCRIPT FLUSH")
        assert await script(keys=["orders:n"], args=[2]) == 4


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_connects_as_it_is_with_a_name_and_health_checks(server: RedisKind, protocol: int) -> None:
    async with Redis(
        host=server.server.host,
        port=server.server.port,
        username="orders",
        password=password("orders"),
        ssl=True,
        ssl_ca_certs=str(server.server.ca),
        client_name="orders-7d4f",
        health_check_interval=1,
        protocol=protocol,
        socket_timeout=30,
    ) as orders:
        assert await orders.get("orders:1") == b"x"
        await asyncio.sleep(1.1)
        assert await orders.get("orders:1") == b"x"


async def test_resetting_a_connection_leaves_it_without_rights(server: RedisKind) -> None:
    async with client(server) as orders:
        connection = await orders.connection_pool.get_connection()
        await connection.send_command("RESET", check_health=False)
        assert await connection.read_response() == "RESET"
        await connection.send_command("GET", "orders:1", check_health=False)
        with pytest.raises(exceptions.AuthenticationError):
            await connection.read_response()
        await connection.disconnect()
        await orders.connection_pool.release(connection)


async def test_a_client_cannot_become_another_one_without_its_password(server: RedisKind) -> None:
    async with client(server) as orders:
        with pytest.raises(exceptions.AuthenticationError):
            await call(orders, "AUTH", "billing", password("orders"))
        assert await call(orders, "GET", "orders:1") == "x"
