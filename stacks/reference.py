"""`python -m stacks.reference`: writes what the program knows of itself into the docs: the picture in the README and docs/settings.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stacks import plan
from stacks.settings import StackSettings
from stacks.stackfile import FOLDER, read

PICTURE = re.compile(r"(?<=<!-- picture: written by `python -m stacks.reference` -->\n)```mermaid\n.*?```\n", re.DOTALL)


def with_picture(readme: str) -> str:
    """The README with the picture of stack `dev` as the program has it now."""
    _, built = plan.planned("dev", read("dev"))
    return PICTURE.sub(f"```mermaid\n{plan.picture(built.edges)}\n```\n", readme)


WORDS = {"string": "text", "integer": "number", "boolean": "true or false", "null": "nothing", "object": "mapping"}


def type_name(schema: Mapping[str, object]) -> str:
    """A key's type as a reader of a stack file would say it, from its JSON schema."""
    if "description" in schema and "$ref" not in schema:
        return str(schema["description"])
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in cast("list[object]", schema["enum"]))
    if "$ref" in schema:
        return "section"
    if "anyOf" in schema:
        return " or ".join(type_name(choice) for choice in cast("list[Mapping[str, object]]", schema["anyOf"]) if choice.get("type") != "null")
    if schema.get("type") == "array":
        return f"list (each: {type_name(cast('Mapping[str, object]', schema.get('items', {})))})"
    if schema.get("format") == "password":
        return "secret"
    return WORDS.get(str(schema.get("type")), "mapping") + bounds(schema)


def bounds(schema: Mapping[str, object]) -> str:
    """The least and the most that a number may be, as far as it has them."""
    least, most = schema.get("minimum"), schema.get("maximum")
    return (f" from {least}" if least is not None else "") + (f" to {most}" if most is not None else "")


def models(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections that a field's type names."""
    arguments = cast("tuple[object, ...]", getattr(field.annotation, "__args__", ()))
    return [found for found in (field.annotation, *arguments) if inspect.isclass(found) and issubclass(found, BaseModel)]


def default(field: FieldInfo) -> str:
    """A field's default, or that it must be given."""
    if field.is_required():
        return "**must be set**"
    value: object = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        values = value.model_dump(mode="json")
        flat = all(not isinstance(inner, dict | list) for inner in values.values())
        return f"`{', '.join(f'{k}: {v}' for k, v in values.items())}`" if flat else "see below"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{'[' + ', '.join(str(item) for item in cast('tuple[object, ...]', value)) + ']' if isinstance(value, tuple) else value}`"


def sections(model: type[BaseModel], path: str) -> Iterator[str]:
    """One section of the document for a model, and those of the models inside."""
    yield f"\n## `{path}`\n\n{inspect.cleandoc(model.__doc__ or '')}\n\n| key | type | default |\n|---|---|---|"
    schemas = cast("dict[str, Mapping[str, object]]", model.model_json_schema()["properties"])
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {type_name(schemas[name])} | {default(field)} |"
    for name, field in model.model_fields.items():
        for inner in models(field):
            if inner.__name__ != "ResourceSettings" or model is StackSettings:
                yield from sections(inner, f"{path}.{name}" + (".NAME" if "dict[" in str(field.annotation) else ""))


def settings_page() -> str:
    """docs/settings.md."""
    head = """# Settings

Everything a stack file may say stands under `groundwork:settings`. Set a key with `pulumi config set --path settings.KEY VALUE`; a value that cannot
work is refused before anything is changed. `resources` always means `cpu_m` and `cpu_limit_m` (millicores), `memory_mib` and
`scratch_mib` (for `/tmp`); what it leaves out stays as the section has it by default. This page is written from the program by
`python -m stacks.reference`."""
    return "\n".join([head, *sections(StackSettings, "settings")]) + "\n"


def write() -> None:
    """Writes both documents."""
    readme = FOLDER / "README.md"
    readme.write_text(with_picture(readme.read_text()))
    (FOLDER / "docs" / "settings.md").write_text(settings_page())


if __name__ == "__main__":
    write()
