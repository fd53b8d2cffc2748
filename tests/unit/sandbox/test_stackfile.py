"""The copy of the stack file that the engine reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import pytest
import yaml

from sandbox import stackfile
from sandbox.errors import SandboxError
from sandbox.stackfile import SandboxFacts
from stacks.stackfile import parse

FACTS = SandboxFacts(images={"runtime": "localhost/groundwork/runtime:1-abc", "postgres": "localhost/groundwork/postgres:17-def"})
TEMPLATE: dict[str, object] = {"config": {"groundwork:settings": {"profile": "dev", "cluster": {"context": "x", "storage_class": "local-path"}}}}


def filled(facts: SandboxFacts, template: dict[str, object] = TEMPLATE) -> dict[str, dict[str, object]]:
    config = stackfile.stack_config(template, facts)["config"]
    return cast("dict[str, dict[str, dict[str, object]]]", config)["groundwork:settings"]


def test_images_and_addresses_are_filled_in_beside_what_stands_there() -> None:
    values = filled(FACTS)
    assert values["images"] == {"runtime": "localhost/groundwork/runtime:1-abc", "postgres": "localhost/groundwork/postgres:17-def"}
    assert values["cluster"] == {
        "context": "sandbox",
        "storage_class": "local-path",
        "operator_cidrs": ["10.99.0.1/32"],
    }


def test_the_template_stays_as_it_is() -> None:
    before = copy.deepcopy(TEMPLATE)
    filled(SandboxFacts(images={}, overrides={"cluster.domain": "x"}))
    assert before == TEMPLATE


def test_overrides_win_over_facts() -> None:
    assert filled(SandboxFacts(images={}, overrides={"rotation": 2, "cluster.context": "other"}))["cluster"]["context"] == "other"


def test_the_tracked_template_with_the_facts_is_a_valid_stack_file() -> None:
    template = yaml.safe_load(stackfile.TEMPLATE.read_text())
    document = stackfile.stack_config(
        template, SandboxFacts(images=dict.fromkeys(("postgres", "redis", "rabbitmq", "consul", "runtime"), "localhost/x:1"))
    )
    raw = cast("dict[str, object]", document["config"])["groundwork:settings"]
    assert parse(raw, "sandbox").images.consul == "localhost/x:1"


def test_a_template_without_settings_is_refused_with_the_fix() -> None:
    with pytest.raises(SandboxError, match="no mapping") as refused:
        stackfile.stack_config({"config": {}}, FACTS)
    assert "git checkout" in refused.value.fix


def test_words_of_the_command_line_become_settings() -> None:
    assert stackfile.overrides(["rotation=2", "redis.storage_gib=3", "retain_data=true", "services.x.command=[-m, x]"]) == {
        "rotation": 2,
        "redis.storage_gib": 3,
        "retain_data": True,
        "services.x.command": ["-m", "x"],
    }


@pytest.mark.parametrize("word", ["rotation", "=2", "a..b=1", "x=[1"])
def test_a_word_that_sets_nothing_is_refused_with_an_example(word: str) -> None:
    with pytest.raises(SandboxError) as refused:
        stackfile.overrides([word])
    assert "--set rotation=2" in refused.value.fix


def test_the_engines_salt_survives_a_new_copy(tmp_path: Path) -> None:
    target = tmp_path / "Pulumi.sandbox.yaml"
    assert stackfile.write(target, FACTS)
    target.write_text("encryptionsalt: v1:abc\n" + target.read_text())
    assert not stackfile.write(target, FACTS)
    assert stackfile.write(target, SandboxFacts(images={"runtime": "localhost/groundwork/runtime:1-new"}))
    assert yaml.safe_load(target.read_text())["encryptionsalt"] == "v1:abc"
