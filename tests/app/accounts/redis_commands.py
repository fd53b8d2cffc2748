"""The commands of a Redis as it describes them itself, so that a test can try each of them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, TypeAdapter


class Place(BaseModel):
    """Where in a command's words keys begin, or how they follow each other."""

    type: str
    spec: dict[str, int | str]

    def at(self, name: str) -> int:
        """A number of the specification."""
        return int(self.spec[name])


class KeySpec(BaseModel):
    """Where a command has keys: https://redis.io/docs/latest/develop/reference/key-specs/."""

    flags: list[str]
    begin_search: Place
    find_keys: Place

    def put(self, key: str, words: list[str]) -> None:
        """Puts a key where the command looks for one; not where it does so by another word."""
        if self.begin_search.type != "index":
            return
        at, follow = self.begin_search.at("index"), self.find_keys
        if follow.type == "keynum":
            number = at + follow.at("keynumidx")
            words.extend(["x"] * (number + 1 - len(words)))
            words[number] = "1"
            at += follow.at("firstkey")
        words.extend(["x"] * (at + 1 - len(words)))
        words[at] = key


class Command(BaseModel):
    """A command, as COMMAND describes it."""

    name: str
    arity: int
    keys: list[KeySpec]
    subcommands: list[Command]

    @classmethod
    def parse(cls, answer: Sequence[object]) -> Command:
        """From the list that COMMAND answers with."""
        nested = TypeAdapter(list[list[object]]).validate_python(answer[9])
        specs = [spec for spec in TypeAdapter(list[KeySpec]).validate_python(answer[8]) if "not_key" not in spec.flags]
        return cls(name=str(answer[0]), arity=abs(int(str(answer[1]))), keys=specs, subcommands=[cls.parse(each) for each in nested])

    def naming(self, key: str) -> list[str]:
        """The words of a call that names `key`, if it has keys at all."""
        words = self.name.split("|")
        words.extend(["x"] * (self.arity - len(words)))
        for spec in self.keys:
            spec.put(key, words)
        return words


def parse(answer: str) -> list[Command]:
    """All commands in the JSON of COMMAND's answer, with subcommands in place of those that have some."""
    found = [Command.parse(each) for each in TypeAdapter(list[list[object]]).validate_json(answer)]
    return [command for each in found for command in (each.subcommands or [each])]
