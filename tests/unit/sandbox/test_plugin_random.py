"""The stand-in for the random plugin, driven over the plugin protocol as the engine drives it."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import grpc
import pytest
from pulumi.runtime.proto import provider_pb2 as messages

from sandbox.plugins import random_plugin
from sandbox.plugins.protocol import UNKNOWN
from tests.unit.sandbox.plugin_client import Plugin, serving

PASSWORD = "random:index/randomPassword:RandomPassword"
STRING = "random:index/randomString:RandomString"
BYTES = "random:index/randomBytes:RandomBytes"
UUID = "random:index/randomUuid:RandomUuid"
ID = "random:index/randomId:RandomId"


@pytest.fixture(scope="module")
def plugin() -> Iterator[Plugin]:
    with serving(random_plugin.provider()) as client:
        yield client


def test_a_password_has_the_length_and_the_characters_that_were_asked_for(plugin: Plugin) -> None:
    assert re.fullmatch(r"[A-Za-z0-9]{40}", str(plugin.create(PASSWORD, {"length": 40, "special": False}).outputs["result"]))


def test_each_class_has_at_least_its_minimum(plugin: Plugin) -> None:
    result = str(plugin.create(PASSWORD, {"length": 30, "special": False, "minNumeric": 20, "minUpper": 10}).outputs["result"])
    assert (sum(letter.isdigit() for letter in result), sum(letter.isupper() for letter in result)) == (20, 10)


def test_a_password_and_its_hash_are_secret_and_its_id_says_nothing(plugin: Plugin) -> None:
    made = plugin.create(PASSWORD, {"length": 20})
    assert made.id == "none"
    assert made.secrets == {"result", "bcryptHash"}
    assert str(made.outputs["bcryptHash"]).startswith("$2b$10$")


def test_a_bcrypt_hash_verifies_its_password_and_no_other() -> None:
    hashed = random_plugin.bcrypt("correct horse")
    assert random_plugin.bcrypt("correct horse", hashed) == hashed
    assert random_plugin.bcrypt("wrong horse", hashed) != hashed


def test_special_characters_come_from_the_override(plugin: Plugin) -> None:
    made = plugin.create(STRING, {"length": 64, "overrideSpecial": "+", "upper": False, "lower": False, "minSpecial": 1})
    assert set(str(made.outputs["result"])) <= set(string.digits) | {"+"}
    assert "+" in str(made.outputs["result"])


def test_a_random_string_is_no_secret_and_its_own_id(plugin: Plugin) -> None:
    made = plugin.create(STRING, {"length": 12})
    assert made.id == made.outputs["result"]
    assert made.secrets == set()


def test_bytes_are_secret_in_both_spellings(plugin: Plugin) -> None:
    made = plugin.create(BYTES, {"length": 32})
    assert len(bytes.fromhex(str(made.outputs["hex"]))) == 32
    assert made.secrets == {"base64", "hex"}


def test_a_uuid_is_of_version_4_and_its_own_id(plugin: Plugin) -> None:
    made = plugin.create(UUID, {})
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made.id)
    assert made.outputs["result"] == made.id


def test_all_spellings_of_an_id_carry_the_prefix_but_the_id_itself(plugin: Plugin) -> None:
    made = plugin.create(ID, {"byteLength": 8, "prefix": "web-"})
    assert made.outputs["hex"] == "web-" + int(str(made.outputs["dec"]).removeprefix("web-")).to_bytes(8, "big").hex()
    assert made.outputs["b64Url"] == "web-" + made.id


def test_two_passwords_differ(plugin: Plugin) -> None:
    assert plugin.create(PASSWORD, {"length": 32}).outputs["result"] != plugin.create(PASSWORD, {"length": 32}).outputs["result"]


def test_a_preview_promises_outputs_without_making_them(plugin: Plugin) -> None:
    made = plugin.create(PASSWORD, {"length": 32}, preview=True)
    assert made.id == ""
    assert made.outputs["result"] == UNKNOWN


def test_a_new_keeper_makes_a_new_password(plugin: Plugin) -> None:
    difference = plugin.diff(PASSWORD, {"length": 32, "keepers": {"rotation": "1"}}, {"length": 32, "keepers": {"rotation": "2"}})
    assert list(difference.replaces) == ["keepers"]


def test_equal_inputs_change_nothing(plugin: Plugin) -> None:
    difference = plugin.diff(PASSWORD, {"length": 32, "special": False}, {"length": 32, "special": False})
    assert difference.changes == messages.DiffResponse.DIFF_NONE
    assert not difference.replaces


def test_an_ignored_input_changes_nothing(plugin: Plugin) -> None:
    difference = plugin.diff(PASSWORD, {"length": 32}, {"length": 33}, ignore=["length"])
    assert difference.changes == messages.DiffResponse.DIFF_NONE


def test_a_read_keeps_the_value_and_its_secrecy(plugin: Plugin) -> None:
    made = plugin.create(PASSWORD, {"length": 32})
    read = plugin.read(PASSWORD, "none", made.outputs)
    assert read.outputs == made.outputs
    assert read.secrets == {"result", "bcryptHash"}


@pytest.mark.parametrize(
    ("inputs", "field", "reason"),
    [
        ({"length": 0}, "length", "at least 1"),
        ({"length": 4, "minUpper": 3, "minLower": 3}, "length", "less than the 6"),
        ({"length": 8.5}, "length", "whole number"),
        ({"length": 8, "upper": False, "lower": False, "numeric": False, "special": False}, "special", "switch one on"),
    ],
)
def test_inputs_that_cannot_work_are_refused_with_the_field(plugin: Plugin, inputs: dict[str, object], field: str, reason: str) -> None:
    failures = plugin.check(PASSWORD, inputs)
    assert [failure.property for failure in failures] == [field]
    assert reason in failures[0].reason


def test_a_length_that_is_not_known_yet_is_no_fault(plugin: Plugin) -> None:
    assert plugin.check(PASSWORD, {"length": UNKNOWN}) == []


@pytest.mark.parametrize("stack", ["dev", "prod", "my-sandbox"])
def test_other_stacks_are_refused_before_anything_is_made(plugin: Plugin, stack: str) -> None:
    with pytest.raises(grpc.RpcError, match="stacks named `sandbox\\*` only"):
        plugin.create(PASSWORD, {"length": 32}, stack=stack)


def test_the_e2e_stack_is_served(plugin: Plugin) -> None:
    assert plugin.create(PASSWORD, {"length": 32}, stack="sandbox-e2e").id == "none"


def test_an_import_is_refused_in_words(plugin: Plugin) -> None:
    with pytest.raises(grpc.RpcError, match="cannot be imported"):
        plugin.read(PASSWORD, "none", {})


def test_a_type_that_it_does_not_have_is_refused_with_those_it_has(plugin: Plugin) -> None:
    with pytest.raises(grpc.RpcError, match="RandomUuid"):
        plugin.create("random:index/randomPet:RandomPet", {})
