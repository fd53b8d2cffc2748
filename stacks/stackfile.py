"""The one place that reads a stack file, and says what is wrong with it.

Every problem is told at once, as `settings.KEY = VALUE in FILE: what is wrong and the fix`, before any resource is registered.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pulumi
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from components.lib.problems import Problem
from stacks import rules
from stacks.settings import KEY, ServiceSettings, StackSettings

FOLDER = Path(__file__).resolve().parent.parent
PULL_SECRET = ("images", "pull_secret")

Place = tuple[str | int, ...]  # where a value stands below `settings`


# Keys of earlier versions, and what is there in their place.
GONE: Mapping[Place, str] = {("cluster", "dns_cidrs"): "the cluster is asked for its DNS servers; cluster.dns says who they are where that is wrong"}


class InvalidStackFile(pulumi.RunError):
    """The stack file says something that cannot work. Pulumi prints the message alone and touches nothing."""


def refusal(problems: Iterable[str]) -> InvalidStackFile:
    """All problems in one message."""
    return InvalidStackFile("\n".join(["the stack file cannot be used; nothing was changed:", *(f"  - {problem}" for problem in problems)]))


def parse(raw: object, stack: str, *, encrypted: Sequence[Place] | None = ()) -> StackSettings:
    """The settings of stack `stack`. Raises InvalidStackFile that lists every problem.

    `encrypted` are the places whose values the file holds encrypted: no message repeats them. None: some are, and nobody knows which.
    """
    file = f"Pulumi.{stack}.yaml"
    if not isinstance(raw, Mapping):
        raise InvalidStackFile(f"groundwork:{KEY} in {file} is {'missing' if raw is None else 'no mapping'}: copy it from Pulumi.dev.yaml")
    values = cast("Mapping[str, object]", with_tuples(cast("object", raw)))
    hidden = [PULL_SECRET, *(encrypted or ())] if encrypted is not None else [()]
    settings, errors = read_as_far_as_possible(values)
    told = {dotted(place(error)) for error in errors}
    found = [] if settings is None else [problem for problem in rules.problems(stack, settings) if problem.key not in told]
    problems = [*(explain(error, hidden, file) for error in errors), *(sentence(problem, hidden, file) for problem in found)]
    if has_pull_secret(values) and encrypted is not None and PULL_SECRET not in encrypted:
        problems.append(
            f"{KEY}.{dotted(PULL_SECRET)} in {file}: stands there in plain text. "
            f"Encrypt it, and renew what was exposed: pulumi config set --path --secret {KEY}.{dotted(PULL_SECRET)}"
        )
    if problems or settings is None:
        raise refusal(problems)
    return settings


def read_as_far_as_possible(values: Mapping[str, object]) -> tuple[StackSettings | None, list[ErrorDetails]]:
    """The settings and what is wrong with single values.

    The settings are read a second time without these, so that what they clash with is told at once too; None where that leaves too little.
    """
    try:
        return StackSettings.model_validate(values), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    try:
        return StackSettings.model_validate(without(values, {place(error) for error in errors})), errors
    except ValidationError:
        return None, errors


def without(value: object, places: Iterable[Place], at: Place = ()) -> object:
    """`value` without what stands at `places`."""
    left_out = frozenset(places)
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, object]", value)
        return {key: without(inner, left_out, (*at, key)) for key, inner in entries.items() if (*at, key) not in left_out}
    if isinstance(value, tuple):
        items = enumerate(cast("tuple[object, ...]", value))
        return tuple(without(inner, left_out, (*at, number)) for number, inner in items if (*at, number) not in left_out)
    return value


def with_tuples(value: object) -> object:
    """Lists as tuples, which strict frozen models take; everything else as it is."""
    if isinstance(value, Mapping):
        return {key: with_tuples(inner) for key, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return tuple(with_tuples(inner) for inner in cast("list[object]", value))
    return value


def place(error: ErrorDetails) -> Place:
    """Where the value stands that pydantic refuses; a mapping's key that cannot be one is where its value stands."""
    return tuple(part for part in error["loc"] if part != "[key]")


def dotted(at: Place) -> str:
    """A place as `pulumi config set --path` takes it."""
    return "".join(part_of_path(part) for part in at).removeprefix(".")


def part_of_path(part: str | int) -> str:
    """One step of a path: .name, ["a name with dots"] or [0]."""
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if re.fullmatch(r"[\w-]+", part) else f"[{json.dumps(part)}]"


def explain(error: ErrorDetails, hidden: Iterable[Place], file: str) -> str:
    """What pydantic refuses, as a sentence with the fix."""
    at = place(error)
    key = f"{KEY}.{dotted(at)}"
    quoted = shlex.quote(key)
    if is_hidden(at, hidden) and error["type"] == "value_error":  # its message may repeat the value
        return f"{key} in {file}: cannot be used as it is. Set it: pulumi config set --path --secret {quoted}"
    match error["type"]:
        case "missing":
            return f"{key} in {file}: is missing. Set it: pulumi config set --path {quoted} VALUE"
        case "extra_forbidden":  # its value may be a secret that should stand elsewhere
            no_such = f"no such key any more: {GONE[at]}" if at in GONE else f"no such key{did_you_mean(at)}"
            return f"{key} in {file}: {no_such}. Remove it: pulumi config rm --path {quoted}"
        case "value_error":
            what = error["msg"].removeprefix("Value error, ")
        case _:
            what = f"{error['msg'][0].lower()}{error['msg'][1:]}. Set it: pulumi config set --path {quoted} VALUE"
    shown = "" if error["loc"][-1:] == ("[key]",) or is_hidden(at, hidden) else equals(cast("object", error["input"]))
    return f"{key}{shown} in {file}: {what}"


def sentence(problem: Problem, hidden: Iterable[Place], file: str) -> str:
    """What the rules refuse, as a sentence. `stack` is no key of the file, but its name."""
    key = problem.key if problem.key == "stack" else f"{KEY}.{problem.key}"
    shown = "" if any(problem.key == dotted(at) or not at for at in hidden) else equals(problem.value)
    return f"{key}{shown} in {file}: {problem.what}"


def is_hidden(at: Place, hidden: Iterable[Place]) -> bool:
    """Whether the value at a place is secret or part of one. A section that holds one is never shown anyway."""
    return any(at[: len(secret)] == secret for secret in hidden)


def equals(value: object) -> str:
    """` = VALUE`, for a value that a line has room for."""
    match value:
        case bool():
            return f" = {str(value).lower()}"
        case str() | int() | float():
            return f" = {value!r}"
        case _:
            return ""


def did_you_mean(at: Place) -> str:
    """The nearest key that exists, as ` (did you mean ...?)`, or nothing."""
    near = difflib.get_close_matches(str(at[-1]), keys_at(at[:-1]), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def keys_at(at: Place) -> Iterable[str]:
    """The keys that the section at a place has."""
    if len(at) > 1 and at[0] == "services":
        model, rest = ServiceSettings, at[2:]
    else:
        model, rest = StackSettings, at
    for part in rest:
        field = model.model_fields.get(str(part))
        inner = list(sections(field.annotation)) if field else []
        if not inner:
            return ()
        model = inner[0]
    return model.model_fields


def sections(annotation: object) -> Iterator[type[BaseModel]]:
    """The sections that a type names: itself, or the one beside None."""
    for found in (annotation, *cast("tuple[object, ...]", getattr(annotation, "__args__", ()))):
        if isinstance(found, type) and issubclass(found, BaseModel):
            yield found


def load() -> StackSettings:
    """The settings of the stack that Pulumi runs. Raises InvalidStackFile."""
    config, stack = pulumi.Config(), pulumi.get_stack()
    for key in pulumi.runtime.get_config_env():
        if key.startswith(f"{config.name}:") and key != f"{config.name}:{KEY}":
            raise InvalidStackFile(f"{key} in Pulumi.{stack}.yaml: no such key. Everything stands under {config.name}:{KEY}")
    raw = cast("object", config.get_object(KEY))
    is_secret = pulumi.runtime.is_config_secret(f"{config.name}:{KEY}")
    return parse(raw, stack, encrypted=encrypted_places(raw, Path.cwd() / f"Pulumi.{stack}.yaml") if is_secret else ())


def encrypted_places(raw: object, file: Path) -> list[Place] | None:
    """Where `file` holds encrypted values. None where it is not there, or is not the one that `raw` was read from.

    Pulumi says of a whole key whether something in it is encrypted, not what.
    """
    there = settings_in(file) if file.is_file() else None
    return list(secure(there)) if same(there, raw) else None


def secure(value: object, at: Place = ()) -> Iterator[Place]:
    """Where a stack file holds encrypted values."""
    if is_secure(value):
        yield at
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield from secure(inner, (*at, key))
    elif isinstance(value, list):
        for number, inner in enumerate(cast("list[object]", value)):
            yield from secure(inner, (*at, number))


def is_secure(value: object) -> bool:
    """Whether this is how Pulumi writes an encrypted value: a mapping with the one key `secure`."""
    return isinstance(value, dict) and set(cast("dict[str, object]", value)) == {"secure"}


def same(written: object, raw: object) -> bool:
    """Whether `raw` is what Pulumi makes of `written`; what is encrypted there may be anything."""
    if is_secure(written):
        return True
    if isinstance(written, dict) and isinstance(raw, dict):
        ours, theirs = cast("dict[str, object]", written), cast("dict[str, object]", raw)
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(written, list) and isinstance(raw, list):
        items, others = cast("list[object]", written), cast("list[object]", raw)
        return len(items) == len(others) and all(map(same, items, others))
    return written == raw


def has_pull_secret(values: Mapping[str, object]) -> bool:
    """Whether there is a pull secret, encrypted or not."""
    images = values.get("images")
    return isinstance(images, Mapping) and cast("Mapping[str, object]", images).get("pull_secret") is not None


def settings_in(file: Path) -> object:
    """What stands under `groundwork:settings` in a stack file. Raises InvalidStackFile for one that is no YAML."""
    try:
        document = cast("object", yaml.safe_load(file.read_text()))
    except yaml.YAMLError as error:
        raise InvalidStackFile(f"{file.name} is no YAML: {' '.join(str(error).split())}") from None
    config = cast("dict[str, object]", document).get("config") if isinstance(document, dict) else None
    values = cast("dict[str, object]", config) if isinstance(config, dict) else {}
    for key in values:
        if key.startswith("groundwork:") and key != f"groundwork:{KEY}":
            raise InvalidStackFile(f"{key} in {file.name}: no such key. Everything stands under groundwork:{KEY}")
    return values.get(f"groundwork:{KEY}")


def stack_file(stack: str, folder: Path = FOLDER) -> Path:
    """The stack's file. Raises InvalidStackFile that names the stacks there are."""
    file = folder / f"Pulumi.{stack}.yaml"
    if not file.is_file():
        there = ", ".join(sorted(found.name.split(".")[1] for found in folder.glob("Pulumi.*.yaml")))
        raise InvalidStackFile(f"stack {stack!r} has no file {file.name}; there are: {there}. Choose one: make plan STACK=dev")
    return file


def read(stack: str, folder: Path = FOLDER) -> StackSettings:
    """The stack's settings, from its file. Raises InvalidStackFile."""
    raw = settings_in(stack_file(stack, folder))
    return parse(decrypted(raw), stack, encrypted=list(secure(raw)))


def decrypted(value: object) -> object:
    """`value` with Pulumi's `secure:` entries replaced by a marker: a plan needs no passphrase."""
    if is_secure(value):
        return "(encrypted)"
    if isinstance(value, dict):
        return {key: decrypted(item) for key, item in cast("dict[str, object]", value).items()}
    return [decrypted(item) for item in cast("list[object]", value)] if isinstance(value, list) else value
