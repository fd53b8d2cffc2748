"""Keys and values: what a key may look like, and strict JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Final

import msgspec

from groundwork.errors import InvalidConfig, InvalidRequest

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_KEY: Final = 256
MAX_DEPTH: Final = 64
MAX_VALUE: Final = 512 * 1024
PART: Final = "[A-Za-z0-9][A-Za-z0-9_.-]*"
_KEY = re.compile(f"{PART}(/{PART})*")


def check_key(key: str) -> str:
    """The key, if it is one: parts of letters, digits and `_.-` joined by `/`, none empty and none beginning with a dot.

    Raises InvalidRequest.
    """
    if len(key) > MAX_KEY or _KEY.fullmatch(key) is None:
        raise InvalidRequest(f"config key {key!r:.80} is invalid: letters, digits and _.- in parts joined by /, at most {MAX_KEY} characters")
    return key


def is_key(key: str) -> bool:
    """Whether `check_key` would accept it."""
    return len(key) <= MAX_KEY and _KEY.fullmatch(key) is not None


def decode(raw: bytes) -> Json:
    """The value of strict JSON in UTF-8: no duplicate keys, no NaN, at most 64 levels, and nothing that `encode` could not write again.

    Raises InvalidConfig that says what is wrong, never the value.
    """
    try:
        value: Json = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise InvalidConfig("not UTF-8: write the value as JSON in UTF-8") from None
    except RecursionError:
        raise InvalidConfig(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        where = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InvalidConfig(f"not strict JSON{where}: {what}") from None
    _check_depth(value, MAX_DEPTH)
    try:
        encode(value)
    except UnicodeEncodeError:
        raise InvalidConfig("a string holds half of a surrogate pair, which is no character: write the character itself") from None
    return value


def encode(value: Json) -> bytes:
    """Canonical JSON: two values are the same exactly when their bytes are. 1, 1.0 and true differ.

    Raises PayloadTooLarge by the back end, not here.
    """
    return msgspec.json.encode(value, order="deterministic")


def same(one: Json, other: Json) -> bool:
    """Whether two values are the same JSON. Python's own `==` takes true for 1."""
    return one is other or encode(one) == encode(other)


def look_up(tree: dict[str, Json], key: str) -> tuple[bool, Json]:
    """Whether the tree has something at `key` (parts joined by `/`, empty: all of it), and what. It is the tree's own: do not change it."""
    level: Json = tree
    for part in key.split("/") if key else ():
        if not isinstance(level, dict) or part not in level:
            return False, None
        level = level[part]
    return True, level


def own(value: Json) -> Json:
    """A copy that may be changed."""
    if isinstance(value, dict):
        return {key: own(below) for key, below in value.items()}
    return [own(below) for below in value] if isinstance(value, list) else value


def merge(low: Json, high: Json) -> Json:
    """`high` over `low`: objects are merged key by key, everything else is replaced."""
    if isinstance(low, dict) and isinstance(high, dict):
        merged = dict(low)
        for key, value in high.items():
            merged[key] = merge(merged[key], value) if key in merged else value
        return merged
    return high


def plant(tree: dict[str, Json], key: str, value: Json) -> None:
    """Put a value into a tree at `key`, merged over what is there. Objects on the way are copied, never changed."""
    *path, last = key.split("/")
    level = tree
    for part in path:
        below = level.get(part)
        copied: dict[str, Json] = dict(below) if isinstance(below, dict) else {}
        level[part] = copied
        level = copied
    level[last] = merge(level[last], value) if last in level else value


def replace(tree: dict[str, Json], key: str, value: Json, *, present: bool) -> None:
    """Put exactly this at `key`, or nothing where it is not `present`."""
    *path, last = key.split("/")
    level = tree
    for part in path:
        below = level.get(part)
        copied: dict[str, Json] = dict(below) if isinstance(below, dict) else {}
        level[part] = copied
        level = copied
    if present:
        level[last] = value
    else:
        level.pop(last, None)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the same key twice in one object")
    return found


def _constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


def _check_depth(value: Json, left: int) -> None:
    if left < 0:
        raise InvalidConfig(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidConfig("a number is larger than any that JSON can carry")  # 1e999: Python takes it for infinity
    if isinstance(value, dict):
        for below in value.values():
            _check_depth(below, left - 1)
    elif isinstance(value, list):
        for below in value:
            _check_depth(below, left - 1)
