"""The outputs are a promise to other teams: what version 1 said once, it says for ever, to readers of any age."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
import pytest

from groundwork.platform_outputs import VERSION, IncompatibleOutputs, PlatformOutputs, parse, read
from stacks import outputs, stackfile
from stacks.catalog import ENGINES
from stacks.plan import planned
from tests.unit.other_stack import run

# Frozen: outputs that a released version 1 wrote. A change that makes these unreadable, or read as something else, needs a version 2.
VERSION_1: dict[str, Any] = {
    "version": 1,
    "stack": "dev",
    "namespace": "groundwork-dev",
    "ca": {"config_map": "groundwork-ca", "pem": "-----BEGIN CERTIFICATE-----\n"},
    "endpoints": {"postgres": {"host": "postgres.groundwork-dev.svc", "port": 5432, "ca": "groundwork-ca"}},
    "services": {"registry": "http://registry.groundwork-dev.svc:8000"},
    "secrets": {"postgres": {"user-service": "user-service-postgres"}},
}
LATER: dict[str, object] = {"certificates": {}, "runtime_image": None}  # fields that came after the first stacks, as a reader finds them there


def test_outputs_of_version_1_are_read_as_they_always_were() -> None:
    read_back = parse(VERSION_1)
    assert read_back.model_dump() == {**VERSION_1, **LATER}
    assert read_back.endpoints["postgres"].port == 5432
    assert read_back.secrets["postgres"]["user-service"] == "user-service-postgres"


@pytest.mark.parametrize("field", sorted(VERSION_1))
def test_every_field_of_version_1_is_still_promised(field: str) -> None:
    without = {name: value for name, value in VERSION_1.items() if name != field}
    with pytest.raises(IncompatibleOutputs):
        parse(without)


@pytest.mark.parametrize(("section", "field"), [("ca", "config_map"), ("ca", "pem"), ("endpoints.postgres", "host"), ("endpoints.postgres", "port")])
def test_every_nested_field_of_version_1_is_still_promised(section: str, field: str) -> None:
    less = copy.deepcopy(VERSION_1)
    del at(less, section)[field]
    with pytest.raises(IncompatibleOutputs, match=re.escape(f"{section}.{field}: Field required")):
        parse(less)


def at(values: dict[str, Any], path: str) -> dict[str, Any]:
    """The mapping at a dotted path."""
    for part in path.split(".") if path else []:
        values = values[part]
    return values


@pytest.mark.parametrize("place", ["", "ca", "endpoints.postgres"])
@pytest.mark.parametrize("value", ["text", 1.5, {"deeper": [1.0, {"still": None}]}])
def test_a_field_that_is_added_later_does_not_break_an_older_reader(place: str, value: object) -> None:
    more = copy.deepcopy(VERSION_1)
    at(more, place)["added_later"] = value
    assert parse(more) == parse(VERSION_1)


@pytest.mark.parametrize("place", ["endpoints", "services", "secrets", "secrets.postgres"])
def test_an_engine_or_service_that_is_added_later_is_there_for_an_older_reader(place: str) -> None:
    more = copy.deepcopy(VERSION_1)
    section = at(more, place)
    section["memcached"] = next(iter(section.values()))
    assert at(parse(more).model_dump(), place)["memcached"] == section["memcached"]


def test_another_version_is_refused_with_the_fix() -> None:
    with pytest.raises(IncompatibleOutputs, match="version 2, this reader knows 1: use the Groundwork release of that stack"):
        parse({**VERSION_1, "version": 2})


def test_a_stack_that_is_not_of_groundwork_is_refused_with_the_fix() -> None:
    with pytest.raises(IncompatibleOutputs, match=r"has no outputs of Groundwork: look whether its name is right.*run `pulumi up` on it"):
        parse({"bucket": "x"})


def test_a_wrong_type_is_named() -> None:
    wrong = copy.deepcopy(VERSION_1)
    wrong["endpoints"]["postgres"]["port"] = "five"
    with pytest.raises(IncompatibleOutputs, match=r"endpoints\.postgres\.port"):
        parse(wrong)


def test_days_left_are_whole_days_the_first_to_end_first() -> None:
    platform = parse({**VERSION_1, "certificates": {"ca": "2036-01-01T00:00:00Z", "postgres": "2026-01-03T23:59:59Z"}})
    left = platform.days_left(datetime(2026, 1, 1, tzinfo=UTC))
    assert list(left) == ["postgres", "ca"]
    assert left["postgres"] == 2


# The schema and the program.


def test_the_published_schema_is_the_one_of_the_code() -> None:
    published = Path("docs/outputs.schema.json").read_text()
    assert json.loads(published) == json.loads(outputs.schema()), "write it anew: python -m stacks.outputs > docs/outputs.schema.json"


def test_the_published_schema_lets_later_fields_pass() -> None:
    assert 'additionalProperties": false' not in Path("docs/outputs.schema.json").read_text()


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_program_exports_what_the_reader_reads(stack: str) -> None:
    graph, _ = planned(stack, stackfile.read(stack))
    assert graph.outputs.keys() == PlatformOutputs.model_fields.keys()
    exported = parse(graph.outputs)
    assert exported.namespace == f"groundwork-{stack}"
    assert exported.endpoints.keys() == ENGINES.keys()
    assert exported.services["document-service"] == f"http://document-service.groundwork-{stack}.svc:8000"
    assert exported.secrets["redis"] == {"document-service": "document-service-redis"}
    assert exported.certificates.keys() == {"ca", *exported.endpoints}
    assert graph.secret_outputs == []


# Another Pulumi program, with a real StackReference.


NAME = "organization/groundwork/dev"


def test_another_program_reads_them_typed_from_a_stack_reference() -> None:
    seen: list[PlatformOutputs] = []
    later = {"certificates": {"ca": "2036-01-01T00:00:00Z"}, "runtime_image": "x@sha256:0", "added": {"later": [1]}}
    run(lambda: read(pulumi.StackReference(NAME)).apply(seen.append), {**VERSION_1, **later})
    assert seen == [parse({**VERSION_1, **later})]
    assert seen[0].runtime_image == "x@sha256:0"


def test_the_outputs_of_an_older_stack_are_read_with_defaults_for_what_came_later() -> None:
    seen: list[PlatformOutputs] = []
    run(lambda: read(pulumi.StackReference(NAME)).apply(seen.append), VERSION_1)
    assert [(platform.certificates, platform.runtime_image) for platform in seen] == [({}, None)]


@pytest.mark.parametrize(("values", "message"), [({"version": 2}, "version 2, this reader knows 1"), ({}, "has no outputs of Groundwork")])
def test_a_program_that_cannot_read_them_ends_with_the_message_alone(values: dict[str, object], message: str) -> None:
    """Pulumi's language host prints the message of a RunError, and of any other error the traceback."""
    with pytest.raises(pulumi.RunError, match=message) as error:
        run(lambda: read(pulumi.StackReference(NAME)), values)
    assert isinstance(error.value, IncompatibleOutputs)


def test_the_program_in_the_readme_runs_as_it_is_written() -> None:
    example = re.search(r"```python\n(.*?platform_outputs.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert example is not None
    seen: list[object] = []
    names: dict[str, Any] = {}

    def program() -> None:
        exec(example[1], names)
        names["database"].apply(seen.append)

    engine = run(program, VERSION_1)
    assert seen == ["postgres.groundwork-dev.svc"]
    assert engine.asked == [NAME]


# The installed package.


def test_the_reader_needs_no_pulumi_before_it_reads() -> None:
    blocked = "import sys; sys.modules['pulumi'] = None; from groundwork.platform_outputs import parse, read; print(parse.__module__)"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "groundwork.platform_outputs"), done.stderr


def test_the_reader_and_its_types_are_in_the_package_that_is_installed() -> None:
    wheel = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "groundwork" in wheel["packages"]
    assert "stacks" not in wheel["packages"]
    assert Path("groundwork/py.typed").is_file()
    needed = "import sys, groundwork.platform_outputs; print(sorted({m.partition('.')[0] for m in sys.modules} & {'stacks', 'components', 'pulumi'}))"
    done = subprocess.run([sys.executable, "-c", needed], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_version_of_the_contract_is_the_one_that_these_tests_freeze() -> None:
    assert VERSION_1["version"] == VERSION
