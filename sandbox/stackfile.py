"""The sandbox's copy of a stack file: the tracked template, with what only this machine knows filled in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml

from sandbox import network, pki
from sandbox.errors import SandboxError
from sandbox.paths import REPO

TEMPLATE = REPO / "Pulumi.sandbox.yaml"
SETTINGS = "groundwork:settings"
SALT = "encryptionsalt"  # the engine writes it into the file; secrets encrypted with it need it


@dataclass(frozen=True)
class SandboxFacts:
    """What `make up` knows and a stack file cannot: the images it built, by the platform's name for them, and who operates it."""

    images: Mapping[str, str]
    context: str = pki.CONTEXT
    operator_cidrs: tuple[str, ...] = (f"{network.HOST_ADDRESS}/32",)
    namespace: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict[str, object])


def stack_config(template: Mapping[str, object], facts: SandboxFacts) -> dict[str, object]:
    """The stack file `template` with `facts` filled in; their overrides win. Raises SandboxError where the template has no settings."""
    return with_settings(
        template,
        {
            "cluster.context": facts.context,
            "cluster.operator_cidrs": list(facts.operator_cidrs),
            **{f"images.{name}": reference for name, reference in facts.images.items()},
            **({} if facts.namespace is None else {"namespace": facts.namespace}),
            **facts.overrides,
        },
    )


def with_settings(template: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, object]:
    """The stack file `template` with `settings`, by their dotted path, such as `rotation` or `redis.storage_gib`; the template stays as it is.

    Raises SandboxError where the template has no settings.
    """
    document = copy.deepcopy(dict(template))
    config = document.get("config")
    values = cast("dict[str, object]", config).get(SETTINGS) if isinstance(config, dict) else None
    if not isinstance(values, dict):
        raise SandboxError(f"{TEMPLATE.name} has no mapping under config, {SETTINGS}", fix=f"restore it: git checkout {TEMPLATE.name}")
    for path, value in settings.items():
        _set(cast("dict[str, object]", values), path.split("."), value)
    return document


def overrides(words: Sequence[str]) -> dict[str, object]:
    """`--set key=value` words as settings; values are YAML.

    Raises SandboxError for a word without a key or a value that is no YAML.
    """
    found: dict[str, object] = {}
    for word in words:
        path, separator, text = word.partition("=")
        try:
            if not separator or not all(path.split(".")):
                raise ValueError("has no key")
            found[path] = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise SandboxError(f"--set {word}: {error}", fix="write it like --set rotation=2 or --set redis.storage_gib=2") from None
    return found


def write(target: Path, facts: SandboxFacts, template: Path = TEMPLATE) -> bool:
    """Writes the copy, keeping the salt of the one before; says whether anything changed."""
    document = stack_config(_load(template), facts)
    before = _load(target) if target.is_file() else {}
    if SALT in before:
        document[SALT] = before[SALT]
    if document == before:
        return False
    unfinished = target.with_suffix(".part")
    unfinished.write_text(yaml.safe_dump(document, sort_keys=False))
    unfinished.rename(target)
    return True


def _load(file: Path) -> dict[str, object]:
    try:
        document: object = yaml.safe_load(file.read_text())
    except OSError as error:
        raise SandboxError(f"{file} cannot be read: {error.strerror}", fix="work in a complete clone") from None
    except yaml.YAMLError as error:
        raise SandboxError(f"{file} is no YAML: {' '.join(str(error).split())}", fix="correct it") from None
    return cast("dict[str, object]", document) if isinstance(document, dict) else {}


def _set(values: dict[str, object], path: Sequence[str], value: object) -> None:
    *folders, last = path
    for folder in folders:
        inner = values.setdefault(folder, {})
        if not isinstance(inner, dict):
            inner = values[folder] = {}
        values = cast("dict[str, object]", inner)
    values[last] = value
