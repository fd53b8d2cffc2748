"""A stack file that cannot work is refused with the key, the value, the file and the fix, and no secret is repeated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from stacks.settings import InvalidStackFile, StackSettings, parse, read

DIGEST = "registry.example/groundwork@sha256:" + "a" * 64
GOOD: dict[str, Any] = {
    "profile": "dev",
    "cluster": {"context": "kind"},
    "images": {"runtime": DIGEST},
    "services": {"user-service": {"command": ["-m", "demo.user_service"], "uses": ["postgres"]}},
}


def refused(change: Callable[[dict[str, Any]], object], *, is_secret: bool = False) -> str:
    """The message with which the changed settings are refused."""
    raw = copy.deepcopy(GOOD)
    change(raw)
    with pytest.raises(InvalidStackFile) as error:
        parse(raw, "dev", is_secret=is_secret)
    return str(error.value)


def test_the_good_file_of_these_tests_is_accepted() -> None:
    assert parse(GOOD, "dev", is_secret=False).services["user-service"].uses == ("postgres",)


@pytest.mark.parametrize("stack", ["dev", "prod", "sandbox"])
def test_the_shipped_stack_files_are_accepted(stack: str) -> None:
    assert isinstance(read(stack), StackSettings)


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    message = refused(lambda raw: raw.update(postgress={"storage_gib": 2}))
    assert "settings.postgress in Pulumi.dev.yaml: no such key (did you mean postgres?)" in message
    assert "pulumi config rm --path settings.postgress" in message


def test_an_unknown_key_inside_a_section_is_named_with_its_path() -> None:
    assert "settings.cluster.contxt = 'x' in Pulumi.dev.yaml: no such key (did you mean context?)" in refused(
        lambda raw: raw["cluster"].update(contxt="x")
    )


def test_an_unknown_key_of_a_service_is_named_with_its_path() -> None:
    message = refused(lambda raw: raw["services"]["user-service"].update(replica=2))
    assert "settings.services.user-service.replica = 2" in message
    assert "did you mean replicas?" in message


def test_a_wrong_type_shows_the_value_and_the_command_that_sets_it() -> None:
    message = refused(lambda raw: raw.update(postgres={"storage_gib": "big"}))
    assert "settings.postgres.storage_gib = 'big' in Pulumi.dev.yaml" in message
    assert "pulumi config set --path settings.postgres.storage_gib VALUE" in message


def test_a_missing_context_is_named_with_the_fix() -> None:
    message = refused(lambda raw: raw.update(cluster={}))
    assert "settings.cluster.context in Pulumi.dev.yaml: is missing" in message
    assert "pulumi config set --path settings.cluster.context" in message


def test_all_problems_are_told_at_once() -> None:
    message = refused(lambda raw: raw.update(cluster={}, rotation=0, nonsense=1))
    assert message.count("\n  - ") == 3


def test_a_runtime_image_and_a_build_contradict_each_other() -> None:
    assert "runtime and build are both set" in refused(lambda raw: raw["images"].update(build={"repository": "registry.example/x"}))


def test_no_runtime_image_at_all_is_refused() -> None:
    assert "neither runtime nor build is set" in refused(lambda raw: raw.update(images={}))


@pytest.mark.parametrize("image", ["postgres", "postgres:latest", "registry.example:5000/postgres", "docker.io/bitnami/postgresql:17.1"])
def test_a_moving_or_dead_image_is_refused(image: str) -> None:
    assert f"settings.images.postgres = '{image}'" in refused(lambda raw: raw["images"].update(postgres=image))


def test_a_runtime_image_by_tag_is_refused() -> None:
    assert "runtime has no digest" in refused(lambda raw: raw["images"].update(runtime="registry.example/groundwork:1.0"))


def test_the_sandbox_may_name_its_own_images_by_content_tag() -> None:
    raw = copy.deepcopy(GOOD) | {"images": {"runtime": "localhost/groundwork/runtime:abc"}}
    assert parse(raw, "sandbox", is_secret=False).images.runtime == "localhost/groundwork/runtime:abc"


def test_a_pull_secret_in_plain_text_is_refused_and_not_repeated() -> None:
    message = refused(lambda raw: raw["images"].update(pull_secret='{"auths": "s3cret"}'))
    assert "pulumi config set --path --secret settings.images.pull_secret" in message
    assert "s3cret" not in message


def test_a_pull_secret_of_the_wrong_type_is_not_repeated_either() -> None:
    assert "s3cret" not in refused(lambda raw: raw["images"].update(pull_secret=["s3cret"]), is_secret=True)


def test_an_encrypted_pull_secret_is_accepted() -> None:
    raw = copy.deepcopy(GOOD)
    raw["images"]["pull_secret"] = "{}"
    assert parse(raw, "dev", is_secret=True).images.pull_secret is not None


def test_a_block_of_addresses_must_be_one() -> None:
    assert "settings.cluster.operator_cidrs.0" in refused(lambda raw: raw["cluster"].update(operator_cidrs=["10.0.0.1/8"]))


def test_production_may_not_delete_its_data() -> None:
    assert "retain_data is false in profile prod" in refused(lambda raw: raw.update(profile="prod"))


def test_a_service_may_not_take_the_name_of_an_engine() -> None:
    assert "services.redis has the name of a part of the platform" in refused(lambda raw: raw["services"].update(redis={"command": ["-m", "x"]}))


def test_a_call_to_a_service_that_is_not_there_is_refused() -> None:
    assert "services.user-service.calls names nobody" in refused(lambda raw: raw["services"]["user-service"].update(calls=["nobody"]))


def test_an_optional_engine_must_be_a_used_one() -> None:
    assert "optional names redis, which `uses` does not" in refused(lambda raw: raw["services"]["user-service"].update(optional=["redis"]))


def test_an_empty_stack_file_says_what_to_copy() -> None:
    with pytest.raises(InvalidStackFile, match=r"missing: copy it from Pulumi\.dev\.yaml"):
        parse(None, "mine", is_secret=False)
