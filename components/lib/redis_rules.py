"""What a client of Redis may do: everything with its own keys and channels, and nothing that shows, changes or stops what is not its own.

Redis has one key space and one state for all clients, and its patterns guard only the keys and channels that a command names. So a client
gets the commands for data by their categories (what a later version or a module adds beside them stays closed), without those that name no
key and reach beyond the client's own. https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

from collections.abc import Sequence

COMMANDS = (
    "-@all",
    *(
        f"+@{category}"
        for category in (
            "connection",
            "keyspace",
            "string",
            "bitmap",
            "hash",
            "list",
            "set",
            "sortedset",
            "stream",
            "hyperloglog",
            "geo",
            "pubsub",
            "transaction",
            "scripting",
        )
    ),
    "+time",
    "-@admin",
    "-@dangerous",  # such as KEYS, FLUSHALL, SWAPDB, INFO, RESTORE, MIGRATE; SORT, which reads keys that it does not name
    # Show the names of all keys, or how many there are.
    "-scan",
    "-randomkey",
    "-dbsize",
    # One database: what lies in another one is seen by nobody who looks after the server.
    "-select",
    "-move",
    "-copy",
    # Invalidation messages name every key that changes (BCAST), whosever it is, and can be sent to another connection (REDIRECT).
    "-client|tracking",
    "-client|trackinginfo",
    "-client|caching",
    "-client|getredir",
    # Names of channels and the number of their subscribers.
    "-pubsub",
    # Functions belong to the whole server: one client could read, replace or delete another one's.
    "-function",
    "-fcall",
    "-fcall_ro",
    # FLUSH takes the other clients' scripts, KILL ends one that runs, DEBUG stops the server for everybody. LOAD and EXISTS stay.
    "-script|flush",
    "-script|kill",
    "-script|debug",
)
"""The same for every client; valid for Redis 7.0 to 8.0."""


def redis_rules(keys: Sequence[str], channels: Sequence[str]) -> list[str]:
    """The rules of a client with these patterns of keys and channels, as ACL SETUSER takes them for a user that has none yet."""
    return [*(f"~{pattern}" for pattern in sorted(keys)), *(f"&{pattern}" for pattern in sorted(channels)), *COMMANDS]
