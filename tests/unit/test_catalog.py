"""Whatever has to know all kinds of engine knows each one: a kind that was forgotten somewhere fails here, with the name of the place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from inspect import isclass
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.accounts.__main__ import ENGINES as ACCOUNTS
from components.lib import versions
from components.lib.engine import EngineArgs
from groundwork import engines as runtime
from groundwork.settings import Settings
from sandbox import images, up
from stacks import plan
from stacks.catalog import ENGINES, FOR_ALL, USABLE
from stacks.kind import Kind
from stacks.recording import Graph
from stacks.settings import ImageSettings, StackSettings
from stacks.values import EngineSettings
from tests.unit.stackfiles import accepted, changed, service

ROOT = Path(__file__).resolve().parent.parent.parent
EVERY = list(ENGINES)
DOCS = ("docs/settings.md", "docs/services.md")
each_kind = pytest.mark.parametrize("name", EVERY)


def model_in(field: FieldInfo | None) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one."""
    for found in (field.annotation, *get_args(field.annotation)) if field else ():
        if isclass(found) and issubclass(found, BaseModel):
            return found
    return None


def is_engine(field: FieldInfo) -> bool:
    """Whether a section of stack files is that of an engine."""
    model = model_in(field)
    return model is not None and issubclass(model, EngineSettings)


@cache
def stack() -> Graph:
    """A stack whose one service uses everything that it can."""
    settings = accepted(changed({"services": {"everything": service(uses=list(USABLE))}}))
    return plan.planned("dev", settings)[0]


def rendered(name: str) -> Mapping[str, object]:
    """What the platform writes into the service's settings.json of one kind."""
    content: Mapping[str, Mapping[str, object]] = json.loads(stack().one("ConfigMap", "everything-settings")["data"]["settings.json"])
    assert name in content, f"stacks/kinds/{name}.py: `use` renders no section {name}"
    return content[name]


@each_kind
def test_it_is_in_the_catalogue_under_its_own_name(name: str) -> None:
    assert ENGINES[name].name == name
    assert "-" not in name, "a Secret <client>-<kind> could be another client's of another kind"
    assert (name in USABLE) != (name in FOR_ALL)


@each_kind
def test_its_files_are_called_like_it(name: str) -> None:
    forgotten = [
        file
        for file in (f"components/{name}.py", f"stacks/kinds/{name}.py", f"groundwork/engines/{name}.py", f"app/accounts/{name}.py")
        if not (ROOT / file).is_file()
    ]
    assert forgotten == [], f"no {', no '.join(forgotten)}"


@each_kind
def test_stack_files_have_its_section(name: str) -> None:
    field = StackSettings.model_fields.get(name)
    assert field is not None, f"stacks/settings.py: StackSettings has no section {name}"
    assert model_in(field) is ENGINES[name].section, f"stacks/settings.py: StackSettings.{name} is not of the class that the catalogue names"
    assert issubclass(ENGINES[name].section, EngineSettings)
    assert not field.is_required(), f"stacks/settings.py: StackSettings.{name} has no default, so that every stack file would have to name it"


@each_kind
def test_stack_files_may_name_its_image_and_have_the_catalogues_by_default(name: str) -> None:
    field = ImageSettings.model_fields.get(name)
    assert field is not None, f"stacks/settings.py: ImageSettings has no image {name}"
    assert field.default == ENGINES[name].image.reference, f"stacks/settings.py: ImageSettings.{name} is not the catalogue's image by default"


@each_kind
def test_its_image_stands_in_the_table_of_versions(name: str) -> None:
    table = [image for image in vars(versions).values() if isinstance(image, versions.Image)]
    assert ENGINES[name].image in table, f"components/lib/versions.py: the image of {name} is not in the one table"


@each_kind
def test_a_stack_has_its_server_its_jobs_and_its_clients_credential(name: str) -> None:
    assert stack().one("StatefulSet", name)
    assert stack().one("CronJob", f"{name}-accounts")
    assert stack().one("Secret", f"everything-{name}")


@each_kind
def test_the_runtime_has_its_section_and_reads_what_the_platform_renders(name: str) -> None:
    section = model_in(Settings.model_fields.get(name))
    assert section is not None, f"groundwork/settings.py: Settings has no section {name}"
    parsed = section.model_validate(rendered(name)).model_dump(mode="json", exclude_unset=True)
    assert parsed == rendered(name), f"groundwork/settings.py: Settings.{name} reads something else than the platform renders"


@each_kind
def test_the_runtimes_table_has_its_connection_and_its_check(name: str) -> None:
    kind = runtime.ENGINES.get(name)
    assert kind is not None, f"groundwork/engines/__init__.py: ENGINES has no {name}"
    assert kind.section is model_in(Settings.model_fields.get(name))
    assert callable(runtime.runtime(name).check)


@each_kind
def test_the_accounts_program_knows_it(name: str) -> None:
    assert name in ACCOUNTS, f"app/accounts/__main__.py: `python -m app.accounts {name}` is refused"


@each_kind
def test_the_sandbox_builds_its_image(name: str) -> None:
    assert (images.FOLDER / name / "Dockerfile").is_file(), f"sandbox/images/{name}/Dockerfile is not there"
    found = [image for image in images.ALL if image.name == name]
    assert len(found) == 1, f"sandbox/images.py: ALL has {len(found)} images {name}"
    assert found[0].contract is not None, f"sandbox/images.py: the image {name} promises nothing"
    assert name in up.PLATFORM_IMAGES, f"sandbox/up.py: `make up` does not build {name} for the stack"


@pytest.mark.parametrize("file", DOCS)
@each_kind
def test_the_docs_say_that_it_is_there(name: str, file: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / file).read_text(), re.IGNORECASE), f"{file} does not mention {name}"


@each_kind
def test_its_arguments_are_those_of_an_engine(name: str) -> None:
    kind: Kind[EngineArgs] = ENGINES[name]
    assert kind.servers(kind.section.model_validate({})) == 1, "a stack file that says nothing has one server"


def modules(folder: str) -> set[str]:
    """The files of a folder that are called like a kind: not those that all kinds share."""
    return {file.stem for file in (ROOT / folder).glob("*.py")} - {"__init__", "kind"}


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("the files of stacks/kinds", modules("stacks/kinds")),
        ("the files of groundwork/engines", modules("groundwork/engines")),
        ("ENGINES of groundwork/engines/__init__.py", set(runtime.ENGINES)),
        ("ENGINES of app/accounts/__main__.py", set(ACCOUNTS)),
        ("images with a contract in sandbox/images.py", {image.name for image in images.ALL if image.contract is not None}),
        ("sections of StackSettings in stacks/settings.py", {n for n, f in StackSettings.model_fields.items() if is_engine(f)}),
    ],
)
def test_no_place_has_a_kind_that_the_catalogue_lacks(place: str, known: set[str]) -> None:
    assert known == set(ENGINES), f"{place} and stacks/catalog.py disagree on {known ^ set(ENGINES)}"
