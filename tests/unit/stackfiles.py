"""A stack file that is accepted, and how a change of it is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from stacks.settings import StackSettings
from stacks.stackfile import InvalidStackFile, Place, parse

DIGEST = "registry.example/groundwork@sha256:" + "a" * 64
GOOD: Mapping[str, Any] = {
    "profile": "dev",
    "cluster": {"context": "kind"},
    "images": {"runtime": DIGEST},
    "services": {"user-service": {"command": ["-m", "demo.user_service"], "uses": ["postgres"]}},
}
GOOD_IN_PRODUCTION: Mapping[str, Any] = {**GOOD, "profile": "prod", "retain_data": True}


def changed(change: Mapping[str, Any], base: Mapping[str, Any] = GOOD) -> dict[str, Any]:
    """The good settings with values put in by their dotted paths, such as `{"redis.storage_gib": 2}`."""
    raw = copy.deepcopy(dict(base))
    for path, value in change.items():
        *sections, key = path.split(".")
        target = raw
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return raw


def without(path: str, base: Mapping[str, Any] = GOOD) -> dict[str, Any]:
    """The good settings without the value at a dotted path."""
    raw = copy.deepcopy(dict(base))
    *sections, key = path.split(".")
    target = raw
    for section in sections:
        target = target[section]
    del target[key]
    return raw


def accepted(raw: Mapping[str, Any], stack: str = "dev", *, encrypted: Sequence[Place] | None = ()) -> StackSettings:
    """The settings of a file that is accepted."""
    return parse(raw, stack, encrypted=encrypted)


def refused(raw: Mapping[str, Any], stack: str = "dev", *, encrypted: Sequence[Place] | None = ()) -> list[str]:
    """The lines with which a stack file is refused."""
    with pytest.raises(InvalidStackFile) as error:
        parse(raw, stack, encrypted=encrypted)
    head, *lines = str(error.value).split("\n  - ")
    assert head == "the stack file cannot be used; nothing was changed:"
    return lines


def service(**entry: object) -> dict[str, Any]:
    """A service that does no more than run."""
    return {"command": ["-m", "x"], **entry}
