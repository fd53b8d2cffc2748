"""Reads the registry's records out of Consul's key-value store, whatever else lies among them and however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from groundwork.backends.base import Consistency
from groundwork.backends.blame import ours
from groundwork.consul.client import ConsulClient
from groundwork.consul.errors import AnswerTooLarge, BadAnswer, TxnConflict
from groundwork.consul.models import KvEntry
from groundwork.consul.txn import KvGet
from groundwork.errors import BackendUnavailable, UnreadableRecord
from groundwork.registry.models import Listing, Record, Stored

RECORDS: Final = "registry/ids/"
BATCH: Final = 32  # values of one read: 32 of 512 KiB, the most that Consul keeps, stay below the client's limit for an answer
SLICE: Final = 250  # records parsed before other tasks get a turn

_KEYS = msgspec.json.Decoder(list[str])


class ConsulRecords:
    """The records below `registry/ids/`, stored as `<service>/<id>`."""

    def __init__(self, client: ConsulClient) -> None:
        self._client = client
        self._parsed: dict[str, Stored] = {}

    async def get(self, name: str) -> Stored | None:
        """The record as the leader has it. Raises UnreadableRecord where this version cannot read it."""
        with ours():
            entry = await self._client.kv_get(RECORDS + name, consistency=Consistency.CONSISTENT)
        if entry is None:
            return None
        try:
            return Stored(Record.parsed(name, entry.value), entry.modify_index)
        except ValueError as error:
            raise UnreadableRecord(f"what is stored as {RECORDS}{name} is no record that this version reads ({_why(error)})") from None

    async def names(self, below: str = "") -> list[str]:
        """The names that begin with `below`, sorted; whatever they hold."""
        with ours():
            answer, _ = await self._client.read(
                "kv_keys", f"/v1/kv/{RECORDS}{below}", {"keys": None}, index=None, wait=None, consistency=Consistency.DEFAULT
            )
        if answer.status == 404:
            if "X-Consul-Index" not in answer.headers:
                raise BadAnswer("a 404 that is not Consul's: does consul.address lead to Consul itself, without a path?")
            return []
        try:
            keys = _KEYS.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(f"Consul's list of keys cannot be read ({error}): does a proxy answer instead?") from None
        return sorted(key.removeprefix(RECORDS) for key in keys if not key.endswith("/"))  # a folder, as Consul's own page makes them

    async def all(self) -> list[KvEntry]:
        """Everything that is stored, in one answer where that holds it all."""
        try:
            with ours():
                found = (await self._client.kv_list(RECORDS)).value
        except AnswerTooLarge:
            return await self.entries(await self.names())
        return [entry for entry in found if not entry.key.endswith("/")]

    async def entries(self, names: Sequence[str]) -> list[KvEntry]:
        """What is stored under these names, some at a time; those that are gone by now are left out."""
        found: list[KvEntry] = []
        for start in range(0, len(names), BATCH):
            found += await self._batch([RECORDS + name for name in names[start : start + BATCH]])
        return found

    async def listing(self, entries: Sequence[KvEntry], *, keep: bool = False) -> Listing:
        """The records that the entries hold. `keep`: they are all there are, and are parsed anew only when they have changed."""
        stored: list[Stored] = []
        unreadable: list[str] = []
        parsed: dict[str, Stored] = {}
        for number, entry in enumerate(entries):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            name = entry.key.removeprefix(RECORDS)
            known = self._parsed.get(name)
            try:
                one = known if known and known.index == entry.modify_index else Stored(Record.parsed(name, entry.value), entry.modify_index)
            except ValueError:
                unreadable.append(name)
                continue
            stored.append(one)
            parsed[name] = one
        if keep:
            self._parsed = parsed
        return Listing(tuple(stored), tuple(unreadable))

    async def _batch(self, keys: list[str]) -> list[KvEntry]:
        while keys:
            try:
                with ours():
                    results = await self._client.txn([KvGet(key) for key in keys])
            except TxnConflict as conflict:
                gone = {error.operation for error in conflict.errors}
                if not gone:
                    raise BackendUnavailable("Consul did not read all keys and did not say which") from None
                keys = [key for number, key in enumerate(keys) if number not in gone]
                continue
            return [result.kv.entry() for result in results if result.kv is not None]
        return []


def _why(error: ValueError) -> str:
    return str(error).splitlines()[0]
