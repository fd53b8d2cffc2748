"""The layers of a configuration and the order in which they cover each other (Spring Cloud's order, then what is mounted, then the environment)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from groundwork.backends.base import ConfigEntry
from groundwork.config.codec import Json, decode, is_key, plant
from groundwork.config.secrets import SecretsFolder, reference
from groundwork.errors import InvalidConfig, InvalidRequest

ENVIRONMENT: Final = "PLATFORM_CONFIG__"
MAX_FILE: Final = 512 * 1024


def prefixes(root: str, app: str, profile: str) -> tuple[str, ...]:
    """The trees in the back end, general ones first: `application/`, `application,prod/`, `user-service/`, `user-service,prod/` below the root.

    Raises InvalidRequest for a root or a name that could lead out of it.
    """
    if not root.endswith("/") or not is_key(root.removesuffix("/")):
        raise InvalidRequest(f"config_prefix {root!r} is invalid: a key that ends in /, such as config/")
    for name in (app, profile):
        if name and ("/" in name or not is_key(name)):
            raise InvalidRequest(f"{name!r} cannot name an application or profile: letters, digits and _.-")
    both = (f"{root}{name}{suffix}/" for name in ("application", app) for suffix in ("", *((f",{profile}",) if profile else ())))
    return tuple(both)


@dataclass(frozen=True, slots=True)
class Value:
    """A decoded value and the index of its last change, 0 where it has none."""

    value: Json
    index: int = 0


@dataclass(slots=True)
class Layer:
    """One layer: its values by key, and what is wrong with the keys that could not be read. A bad value leaves the last good one in force."""

    name: str
    values: Mapping[str, Value] = field(default_factory=dict[str, Value])
    problems: Mapping[str, str] = field(default_factory=dict[str, str])

    def load(self, entries: Sequence[ConfigEntry]) -> tuple[str, ...]:
        """Take a new state of a tree. Returns the keys whose values were not usable and had not been reported yet."""
        values: dict[str, Value] = {}
        problems: dict[str, str] = {}
        for entry in entries:
            key = entry.key.removeprefix(self.name)
            if not key or key.endswith("/"):
                continue  # a folder, as Consul's user interface makes them
            if not is_key(key):
                problems[key] = "not a key that configuration may have"
                continue
            old = self.values.get(key)
            if old is not None and old.index == entry.modify_index and key not in self.problems:
                values[key] = old
                continue
            try:
                values[key] = Value(decode(entry.value), entry.modify_index)
            except InvalidConfig as error:
                problems[key] = str(error)
                if old is not None:
                    values[key] = old
        fresh = tuple(key for key in problems if self.problems.get(key) != problems[key])
        self.values, self.problems = values, problems
        return fresh


def merged(layers: Sequence[Layer]) -> dict[str, Json]:
    """The tree that all layers make together, later ones over earlier ones."""
    tree: dict[str, Json] = {}
    for layer in layers:
        own: dict[str, Json] = {}
        for key in sorted(layer.values, key=lambda key: key.count("/")):  # `limits/requests` says more than `limits`
            plant(own, key, layer.values[key].value)
        for key, value in own.items():
            plant(tree, key, value)
    return tree


def from_mapping(name: str, values: Mapping[str, Json]) -> Layer:
    """A layer of given values, such as the defaults in the code."""
    return Layer(name, {key: Value(value) for key, value in values.items()})


def from_files(name: str, folder: Path | None, before: Layer | None = None) -> Layer:
    """A mounted ConfigMap: the file `limits.json` or `limits` is the key `limits`, `limits.requests` is `limits/requests`. Values are JSON.

    A file that cannot be used leaves its value of `before` in force. Raises OSError where the folder itself cannot be read.
    """
    layer = Layer(name)
    values: dict[str, Value] = {}
    problems: dict[str, str] = {}
    for path in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        if path.name.startswith(".") or not path.is_file():
            continue
        key = path.name.removesuffix(".json").replace(".", "/")
        try:
            if path.stat().st_size > MAX_FILE:
                problems[key] = f"larger than {MAX_FILE} bytes"
            elif not is_key(key):
                problems[key] = "not a key that configuration may have"
            else:
                values[key] = Value(decode(path.read_bytes()))
        except InvalidConfig as error:
            problems[key] = str(error)
        except OSError as error:
            problems[key] = f"cannot be read ({error.strerror})"
    kept = {key: before.values[key] for key in problems if key in before.values} if before is not None else {}
    values |= {key: value for key, value in kept.items() if key not in values}
    layer.values, layer.problems = values, problems
    return layer


def from_secrets(name: str, secrets: SecretsFolder) -> Layer:
    """Mounted secrets: the file `database/password` is the key of that name. Only references enter the tree."""
    return Layer(name, {secret: Value(reference(secret)) for secret in secrets.names()})


def from_environment(name: str, environment: Mapping[str, str]) -> Layer:
    """`PLATFORM_CONFIG__LIMITS__REQUESTS=5` is the key `limits/requests`. A value that is no JSON is a string."""
    values: dict[str, Value] = {}
    problems: dict[str, str] = {}
    for variable, text in environment.items():
        key = variable.removeprefix(ENVIRONMENT).lower().replace("__", "/")
        if variable.startswith(ENVIRONMENT) and is_key(key):
            try:
                values[key] = Value(decode(text.encode("utf-8", "surrogateescape")))
            except InvalidConfig:
                if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text):
                    values[key] = Value(text)
                else:
                    problems[key] = "not UTF-8"
    return Layer(name, values, problems)
