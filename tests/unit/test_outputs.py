"""The outputs are a promise to other teams: what version 1 said once, it says for ever."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pulumi
import pytest

from stacks import outputs
from stacks.outputs import IncompatibleOutputs, PlatformOutputs
from stacks.plan import planned
from stacks.settings import read
from tests.unit.recording import record

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


def test_outputs_of_version_1_are_read_as_they_always_were() -> None:
    read_back = outputs.parse(VERSION_1)
    assert read_back.model_dump() == VERSION_1
    assert read_back.endpoints["postgres"].port == 5432
    assert read_back.secrets["postgres"]["user-service"] == "user-service-postgres"


@pytest.mark.parametrize("field", sorted(VERSION_1))
def test_every_field_of_version_1_is_still_promised(field: str) -> None:
    without = {name: value for name, value in VERSION_1.items() if name != field}
    with pytest.raises(IncompatibleOutputs):
        outputs.parse(without)


def test_another_version_is_refused_with_the_fix() -> None:
    with pytest.raises(IncompatibleOutputs, match="version 2, this reader knows 1: use the Groundwork release of that stack"):
        outputs.parse({**VERSION_1, "version": 2})


def test_a_wrong_type_is_named() -> None:
    wrong = copy.deepcopy(VERSION_1)
    wrong["endpoints"]["postgres"]["port"] = "five"
    with pytest.raises(IncompatibleOutputs, match=r"endpoints\.postgres\.port"):
        outputs.parse(wrong)


def test_the_published_schema_is_the_one_of_the_code() -> None:
    published = Path("docs/outputs.schema.json").read_text()
    assert json.loads(published) == json.loads(outputs.schema()), "write it anew: python -m stacks.outputs > docs/outputs.schema.json"


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_program_exports_what_the_reader_reads(stack: str) -> None:
    graph, _ = planned(stack, read(stack))
    exported = outputs.parse(graph.outputs)
    assert exported.namespace == f"groundwork-{stack}"
    assert exported.endpoints.keys() == {"postgres", "redis", "rabbitmq", "consul"}
    assert exported.services["document-service"] == f"http://document-service.groundwork-{stack}.svc:8000"
    assert exported.secrets["redis"] == {"document-service": "document-service-redis"}


def test_another_program_reads_them_typed_from_a_stack_reference() -> None:
    class Reference(pulumi.StackReference):
        def __init__(self) -> None:
            self.asked: list[str] = []

        def require_output(self, name: pulumi.Input[str]) -> pulumi.Output[Any]:
            assert isinstance(name, str)
            self.asked.append(name)
            return pulumi.Output.from_input(float(VERSION_1[name]) if name == "version" else VERSION_1[name])  # the engine knows floats only

    seen: list[PlatformOutputs] = []
    record(lambda: outputs.read(Reference()).apply(seen.append))
    assert seen == [outputs.parse(VERSION_1)]
