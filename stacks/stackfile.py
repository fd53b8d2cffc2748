"""The one place that reads a stack file, and says what is wrong with it.

Every problem is told at once, with the key, the value, the file and the fix, before any resource is registered.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import pulumi
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stacks import rules
from stacks.settings import KEY, ServiceSettings, StackSettings

FOLDER = Path(__file__).resolve().parent.parent


class InvalidStackFile(pulumi.RunError):
    """The stack file says something that cannot work. Pulumi prints the message alone and touches nothing."""


def explain(error: ErrorDetails, raw: Mapping[str, object], stack_file: str) -> str:
    """One problem as a sentence: the key, its value unless it may be secret, the stack file, and the fix."""
    path = [str(part) for part in error["loc"]]
    key = ".".join([KEY, *path])
    value: object = raw
    for part in path:
        value = cast("Mapping[str, object]", value).get(part) if isinstance(value, Mapping) else None  # pyright: ignore[reportUnnecessaryCast] only at first
    shown = "" if "pull_secret" in path or isinstance(value, Mapping | list) or value is None else f" = {value!r}"
    where = f"{key}{shown} in {stack_file}"
    command = f"pulumi config set --path {key} VALUE"
    match error["type"]:
        case "missing":
            return f"{where}: is missing. Set it: {command}"
        case "extra_forbidden":
            return f"{where}: no such key{did_you_mean(path)}. Remove it: pulumi config rm --path {key}"
        case "value_error":
            return f"{where}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}. Set it: {command}"


def refusal(problems: Iterable[str]) -> InvalidStackFile:
    """All problems in one message."""
    return InvalidStackFile("\n".join(["the stack file cannot be used; nothing was changed:", *(f"  - {problem}" for problem in problems)]))


def did_you_mean(path: list[str]) -> str:
    """The nearest key that exists, as ` (did you mean ...?)`, or nothing."""
    model: type[BaseModel] | None = StackSettings
    for part in path[:-1]:
        field = model.model_fields.get(part) if model else None
        annotation = field.annotation if field else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    near = difflib.get_close_matches(path[-1], model.model_fields if model else ServiceSettings.model_fields, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def parse(raw: object, stack: str, *, pull_secret_is_encrypted: bool) -> StackSettings:
    """The settings of stack `stack`. Raises InvalidStackFile that lists every problem."""
    stack_file = f"Pulumi.{stack}.yaml"
    if not isinstance(raw, Mapping):
        raise InvalidStackFile(f"groundwork:{KEY} in {stack_file} is {'missing' if raw is None else 'no mapping'}: copy it from Pulumi.dev.yaml")
    values = cast("Mapping[str, object]", raw)
    try:
        settings = StackSettings.model_validate(with_tuples(values))
    except ValidationError as error:
        problems = [explain(detail, values, stack_file) for detail in error.errors(include_url=False)]
        raise refusal(problems) from None
    if found := rules.problems(stack, settings):
        raise refusal(f"{KEY}.{problem} (in {stack_file})" for problem in found)
    if settings.images.pull_secret is not None and not pull_secret_is_encrypted:
        raise InvalidStackFile(
            f"{KEY}.images.pull_secret in {stack_file} stands there in plain text; nothing was changed. "
            f"Encrypt it: pulumi config set --path --secret {KEY}.images.pull_secret, and renew what was exposed"
        )
    return settings


def with_tuples(value: object) -> object:
    """Lists as tuples, which strict frozen models take; everything else as it is."""
    if isinstance(value, Mapping):
        return {key: with_tuples(inner) for key, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return tuple(with_tuples(inner) for inner in cast("list[object]", value))
    return value


def load() -> StackSettings:
    """The settings of the stack that Pulumi runs. Raises InvalidStackFile."""
    config, stack = pulumi.Config(), pulumi.get_stack()
    for key in pulumi.runtime.get_config_env():
        if key.startswith(f"{config.name}:") and key != f"{config.name}:{KEY}":
            raise InvalidStackFile(f"{key} in Pulumi.{stack}.yaml: no such key. Everything stands under {config.name}:{KEY}")
    # Pulumi says of a whole key whether something in it is encrypted, not what; the file says it.
    encrypted = pulumi.runtime.is_config_secret(f"{config.name}:{KEY}") and not has_plain_pull_secret(Path.cwd() / f"Pulumi.{stack}.yaml")
    return parse(config.get_object(KEY), stack, pull_secret_is_encrypted=encrypted)


def has_plain_pull_secret(file: Path) -> bool:
    """Whether `file` holds a pull secret that anybody can read. A stack whose settings lie elsewhere has no such file."""
    if not file.is_file():
        return False
    return isinstance(pull_secret_of(settings_in(file)), str)


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


def pull_secret_of(raw: object) -> object:
    """The pull secret as it stands in a stack file: text, or a mapping with Pulumi's `secure`."""
    images = cast("Mapping[str, object]", raw).get("images") if isinstance(raw, Mapping) else None
    return cast("Mapping[str, object]", images).get("pull_secret") if isinstance(images, Mapping) else None


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
    return parse(decrypted(raw), stack, pull_secret_is_encrypted=not isinstance(pull_secret_of(raw), str))


def decrypted(value: object) -> object:
    """`value` with Pulumi's `secure:` entries replaced by a marker: a plan needs no passphrase."""
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return "(encrypted)" if set(entries) == {"secure"} else {key: decrypted(item) for key, item in entries.items()}
    return value
