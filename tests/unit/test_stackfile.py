"""A stack file that cannot work is refused, all problems at once, each with key, value, file and fix, and no secret is repeated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from stacks import stackfile
from stacks.settings import StackSettings
from stacks.stackfile import InvalidStackFile, load, parse, read
from tests.unit.stackfiles import GOOD, accepted, changed, refused, service, without

PULL_SECRET = ("images", "pull_secret")


def test_the_good_file_of_these_tests_is_accepted() -> None:
    assert accepted(GOOD).services["user-service"].uses == ("postgres",)


@pytest.mark.parametrize("stack", ["dev", "prod", "sandbox"])
def test_the_shipped_stack_files_are_accepted(stack: str) -> None:
    assert isinstance(read(stack), StackSettings)


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    assert refused(changed({"postgress": {"storage_gib": 2}})) == [
        "settings.postgress in Pulumi.dev.yaml: no such key (did you mean postgres?). Remove it: pulumi config rm --path settings.postgress"
    ]


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("cluster.contxt", "context"),
        ("services.user-service.replica", "replicas"),
        ("services.user-service.resources.memory_mb", "memory_mib"),
        ("images.build.repositry", "repository"),
        ("cluster.dns.cidr", "cidrs"),
        ("consul.server", "servers"),
    ],
)
def test_an_unknown_key_inside_a_section_is_named_with_its_path(path: str, nearest: str) -> None:
    told = [line for line in refused(changed({path: 2})) if "no such key" in line]
    assert told == [f"settings.{path} in Pulumi.dev.yaml: no such key (did you mean {nearest}?). Remove it: pulumi config rm --path settings.{path}"]


def test_a_key_that_is_like_no_other_is_refused_without_a_guess() -> None:
    assert "no such key. Remove it" in refused(changed({"xyzzy": 1}))[0]


def test_a_key_of_an_earlier_version_says_what_is_there_in_its_place() -> None:
    assert refused(changed({"cluster.dns_cidrs": ["10.0.0.10/32"]})) == [
        "settings.cluster.dns_cidrs in Pulumi.dev.yaml: no such key any more: the cluster is asked for its DNS servers; "
        "cluster.dns says who they are where that is wrong. Remove it: pulumi config rm --path settings.cluster.dns_cidrs"
    ]


def test_the_value_of_an_unknown_key_is_not_repeated_for_it_may_be_a_misplaced_secret() -> None:
    assert "s3cret" not in "".join(refused(changed({"images.pullsecret": "s3cret"})))


def test_a_wrong_type_shows_the_value_and_the_command_that_sets_it() -> None:
    assert refused(changed({"postgres": {"storage_gib": "big"}})) == [
        "settings.postgres.storage_gib = 'big' in Pulumi.dev.yaml: input should be a valid integer. "
        "Set it: pulumi config set --path settings.postgres.storage_gib VALUE"
    ]


def test_a_missing_context_is_named_with_the_fix() -> None:
    assert refused(without("cluster.context")) == [
        "settings.cluster.context in Pulumi.dev.yaml: is missing. Set it: pulumi config set --path settings.cluster.context VALUE"
    ]


def test_a_bad_value_in_two_places_is_told_twice() -> None:
    lines = refused(changed({"postgres.storage_gib": 0, "redis.storage_gib": 0}))
    assert [line.split(" in ")[0] for line in lines] == ["settings.postgres.storage_gib = 0", "settings.redis.storage_gib = 0"]


def test_problems_of_single_values_and_of_their_company_are_told_at_once() -> None:
    raw = changed({"rotation": 0, "nonsense": 1, "redis.resources.memory_mib": 32, "services.admin": service(uses=["kafka"])})
    assert {line.split(" in ")[0] for line in refused(raw)} == {
        "settings.rotation = 0",
        "settings.nonsense",
        "settings.redis.resources.memory_mib = 32",
        "settings.services.admin",
        "settings.services.admin.uses",
    }


def test_a_bad_item_of_a_list_hides_nothing_else() -> None:
    lines = refused(changed({"cluster.operator_cidrs": ["10.0.0.0/8", "nonsense"], "services.admin": service()}))
    assert [line.split(" in ")[0] for line in lines] == ["settings.cluster.operator_cidrs[1] = 'nonsense'", "settings.services.admin"]


def test_problems_of_several_engines_and_services_are_told_at_once() -> None:
    raw = changed(
        {
            "postgres.resources.memory_mib": 16,
            "redis.resources.memory_mib": 32,
            "images.consul": "consul:1.15.0",
            "services.guest": service(),
            "services.a": service(port=9000),
            "services.b": service(calls=["nobody"]),
        }
    )
    assert [line.split(" in ")[0] for line in refused(raw)] == [
        "settings.services.guest",
        "settings.services.a.port = 9000",
        "settings.services.b.calls",
        "settings.postgres.resources.memory_mib = 16",
        "settings.redis.resources.memory_mib = 32",
        "settings.images.consul = 'consul:1.15.0'",
    ]


def test_what_follows_from_a_refused_value_is_not_told_besides() -> None:
    lines = refused(changed({"profile": "prod", "retain_data": "yes"}))
    assert [line.split(" in ")[0] for line in lines] == ["settings.retain_data = 'yes'"]


@pytest.mark.parametrize(
    "change",
    [
        {"rotation": 0},
        {"services.admin": service()},
        {"services.Bad_Name": service()},
        {"images.build": {"repository": "registry.example/x"}},
        {"services.a": service(port=9000)},
        {"redis.resources.memory_mib": 16},
        {"cluster.operator_cidrs": ["nonsense"]},
        {"certificates.authority": 3},
        {"profile": "prod"},
    ],
)
def test_every_line_has_one_form(change: dict[str, Any]) -> None:
    form = r"settings\.[\w.\[\]-]+( = \S.*?)? in Pulumi\.dev\.yaml: \S.*"
    assert [line for line in refused(changed(change)) if not re.fullmatch(form, line)] == []


def test_an_item_of_a_list_is_named_as_pulumi_names_it() -> None:
    lines = refused(changed({"cluster.operator_cidrs": ["10.0.0.0/8", 7]}))
    assert lines == [
        "settings.cluster.operator_cidrs[1] = 7 in Pulumi.dev.yaml: input should be a valid string. "
        "Set it: pulumi config set --path 'settings.cluster.operator_cidrs[1]' VALUE"
    ]


def test_a_name_with_a_dot_is_named_as_pulumi_names_it() -> None:
    assert refused(changed({}) | {"services": {"a.b": service()}})[0].startswith('settings.services["a.b"] in Pulumi.dev.yaml: cannot be a service')


def test_true_and_false_are_shown_as_in_the_file() -> None:
    assert "settings.rotation = true in" in refused(changed({"rotation": True}))[0]


def test_a_pull_secret_in_plain_text_is_refused_and_not_repeated() -> None:
    lines = refused(changed({"images.pull_secret": '{"auths": "s3cret"}'}))
    assert lines == [
        "settings.images.pull_secret in Pulumi.dev.yaml: stands there in plain text. "
        "Encrypt it, and renew what was exposed: pulumi config set --path --secret settings.images.pull_secret"
    ]


def test_a_pull_secret_in_plain_text_is_told_beside_other_problems() -> None:
    assert len(refused(changed({"images.pull_secret": "{}", "rotation": 0, "services.admin": service()}))) == 3


def test_a_pull_secret_of_the_wrong_type_is_not_repeated_either() -> None:
    assert "s3cret" not in "".join(refused(changed({"images.pull_secret": ["s3cret"]}), encrypted=[PULL_SECRET]))


def test_an_encrypted_pull_secret_is_accepted() -> None:
    assert accepted(changed({"images.pull_secret": "{}"}), encrypted=[PULL_SECRET]).images.pull_secret is not None


def test_another_encrypted_value_does_not_make_the_pull_secret_one() -> None:
    lines = refused(changed({"images.pull_secret": "{}"}), encrypted=[("cluster", "context")])
    assert "plain text" in lines[0]


def test_a_pull_secret_that_may_be_encrypted_is_accepted_where_nobody_knows() -> None:
    assert accepted(changed({"images.pull_secret": "{}"}), encrypted=None).images.pull_secret is not None


@pytest.mark.parametrize("encrypted", [[("cluster", "operator_cidrs", 0)], [("cluster", "operator_cidrs")], [("cluster",)], None])
def test_an_encrypted_value_is_never_repeated(encrypted: list[tuple[str | int, ...]] | None) -> None:
    assert "198.51.100" not in "".join(refused(changed({"cluster.operator_cidrs": ["198.51.100.7/8"]}), encrypted=encrypted))


def test_an_encrypted_value_that_clashes_with_others_is_not_repeated() -> None:
    raw = changed({"services.user-service.port": 9000})
    assert "settings.services.user-service.port = 9000 in" in refused(raw)[0]
    assert "settings.services.user-service.port in" in refused(raw, encrypted=[("services", "user-service", "port")])[0]
    assert "settings.services.user-service.port in" in refused(raw, encrypted=None)[0]


def test_an_empty_stack_file_says_what_to_copy() -> None:
    with pytest.raises(InvalidStackFile, match=r"groundwork:settings in Pulumi\.mine\.yaml is missing: copy it from Pulumi\.dev\.yaml"):
        parse(None, "mine")


def test_settings_that_are_no_mapping_say_what_to_copy() -> None:
    with pytest.raises(InvalidStackFile, match="is no mapping: copy it"):
        parse(["x"], "mine")


# What Pulumi hands over, and the file that lies beside the program.


def running(monkeypatch: pytest.MonkeyPatch, folder: Path, written: object, raw: object, *, secret: bool, **more: str) -> StackSettings:
    """The settings of stack `dev` as its program reads them from Pulumi, with a stack file that holds `written`."""
    monkeypatch.chdir(folder)
    if written is not None:
        Path("Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": {"groundwork:settings": written}}))
    config = {"groundwork:settings": json.dumps(raw), **more}
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(config))
    pulumi.runtime.set_all_config(config, ["groundwork:settings"] if secret else [])
    try:
        pulumi.runtime.set_mocks(NoResources(), project="groundwork", stack="dev")
        return load()
    finally:
        pulumi.runtime.set_all_config({})


class NoResources(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        raise AssertionError(f"{args.name} is registered, though only settings are read")

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"{args.token} is called, though only settings are read")


SECURE = {"secure": "v1:abc"}


def test_a_running_program_reads_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert running(monkeypatch, tmp_path, GOOD, GOOD, secret=False).cluster.context == "kind"


def test_a_plain_pull_secret_beside_another_secret_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = changed({"images.pull_secret": "{}", "cluster.context": SECURE})
    with pytest.raises(InvalidStackFile, match="plain text"):
        running(monkeypatch, tmp_path, written, changed({"images.pull_secret": "{}"}), secret=True)


@pytest.mark.parametrize("written", [None, GOOD])
def test_a_plain_pull_secret_is_refused_wherever_its_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: object) -> None:
    with pytest.raises(InvalidStackFile, match="plain text"):
        running(monkeypatch, tmp_path, written, changed({"images.pull_secret": "{}"}), secret=False)


def test_an_encrypted_pull_secret_of_a_running_program_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = changed({"images.pull_secret": "{}"})
    assert running(monkeypatch, tmp_path, changed({"images.pull_secret": SECURE}), raw, secret=True).images.pull_secret is not None


@pytest.mark.parametrize("written", [None, GOOD, changed({"images.pull_secret": "{}", "rotation": 3})])
def test_a_file_that_is_not_the_one_that_was_read_says_nothing_of_the_pull_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: object
) -> None:
    raw = changed({"images.pull_secret": "{}"})
    assert running(monkeypatch, tmp_path, written, raw, secret=True).images.pull_secret is not None


def test_an_encrypted_value_of_a_running_program_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written, raw = changed({"images.postgres": SECURE}), changed({"images.postgres": "s3cret:latest"})
    with pytest.raises(InvalidStackFile, match=r"settings\.images\.postgres in") as error:
        running(monkeypatch, tmp_path, written, raw, secret=True)
    assert "s3cret" not in str(error.value)


def test_a_key_beside_the_settings_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidStackFile, match=r"groundwork:namespace in Pulumi\.dev\.yaml: no such key\. Everything stands under groundwork:settings"
    ):
        running(monkeypatch, tmp_path, GOOD, GOOD, secret=False, **{"groundwork:namespace": "x"})


# A plan, which reads the file itself.


def test_a_plan_needs_no_passphrase(tmp_path: Path) -> None:
    settings = {**GOOD, "images": {**GOOD["images"], "pull_secret": SECURE}}
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": {"groundwork:settings": settings}}))
    assert read("dev", tmp_path).images.pull_secret is not None


def test_a_plan_refuses_a_plain_pull_secret_too(tmp_path: Path) -> None:
    settings = changed({"images.pull_secret": "{}", "cluster.context": SECURE})
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": {"groundwork:settings": settings}}))
    with pytest.raises(InvalidStackFile, match="plain text"):
        read("dev", tmp_path)


def test_a_plan_of_a_stack_without_a_file_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text("")
    with pytest.raises(InvalidStackFile, match=r"stack 'mine' has no file Pulumi\.mine\.yaml; there are: dev"):
        read("mine", tmp_path)


def test_a_file_that_is_no_yaml_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text("config: [")
    with pytest.raises(InvalidStackFile, match=r"Pulumi\.dev\.yaml is no YAML"):
        read("dev", tmp_path)


def test_a_plan_refuses_a_key_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": {"groundwork:namespace": "x"}}))
    with pytest.raises(InvalidStackFile, match=r"groundwork:namespace in Pulumi\.dev\.yaml: no such key"):
        read("dev", tmp_path)


def test_what_pulumi_prints_is_the_message_alone() -> None:
    assert issubclass(stackfile.InvalidStackFile, pulumi.RunError)
