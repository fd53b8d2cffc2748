"""What the images promise, how their tags follow from their inputs, and that the built ones keep their promises."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sandbox import buildinput, images, paths, up
from sandbox.images import Contract, Image, Source
from sandbox.progress import Progress

WITH_CONTRACT = [image for image in images.ALL if image.contract is not None]
SOURCES = {"Dockerfile": Source(b"FROM scratch\n", executable=False), "start.sh": Source(b"#!/bin/sh\n", executable=True)}


def contract(image: Image) -> Contract:
    assert image.contract is not None
    return image.contract


@pytest.mark.parametrize(("name", "uid", "gid"), [("postgres", 999, 999), ("redis", 999, 999), ("rabbitmq", 999, 999), ("consul", 100, 1000)])
def test_users_are_those_of_the_official_images(name: str, uid: int, gid: int) -> None:
    assert (contract(images.get(name)).uid, contract(images.get(name)).gid) == (uid, gid)


def test_the_tag_names_image_version_and_content() -> None:
    made = images.tag(images.get("redis"), SOURCES, None, None)
    assert re.fullmatch(r"localhost/groundwork/redis:8-[0-9a-f]{12}", made)
    assert made == images.tag(images.get("redis"), dict(reversed(SOURCES.items())), None, None)


@pytest.mark.parametrize(
    "changed",
    [
        {**SOURCES, "Dockerfile": Source(b"FROM scratch\nENV A=1\n", executable=False)},
        {**SOURCES, "start.sh": Source(b"#!/bin/sh\n", executable=False)},
        {**SOURCES, "more": Source(b"", executable=False)},
        {"Dockerfile": SOURCES["Dockerfile"]},
    ],
)
def test_every_change_of_a_file_changes_the_tag(changed: dict[str, Source]) -> None:
    assert images.tag(images.get("redis"), changed, None, None) != images.tag(images.get("redis"), SOURCES, None, None)


def test_another_base_or_tool_changes_the_tag() -> None:
    tags = {images.tag(images.get("consul"), SOURCES, base, tool) for base, tool in (("b1", "t1"), ("b2", "t1"), ("b1", "t2"), ("b1", None))}
    assert len(tags) == 4


def test_the_runtimes_content_is_what_its_dockerfile_copies_and_nothing_else() -> None:
    files = images.context(images.get("runtime"))
    assert {"Dockerfile", "app/requirements.txt", "app/__init__.py", "groundwork/__init__.py"} <= set(files)
    assert not [path for path in files if path.startswith(("tests/", "sandbox/", ".git")) or "__pycache__" in path]


def test_no_image_is_tagged_with_a_moving_name() -> None:
    assert not any(image.version in {"", "latest"} for image in images.ALL)


def test_copy_lines_are_read_with_their_options_folders_and_continuations(tmp_path: Path) -> None:
    for name in ("app/main.py", "app/deep/more.py", "app/__pycache__/main.pyc", "lock.txt", "other.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    text = "FROM x AS build\nCOPY --chown=1:1 \\\n  lock.txt /tmp/\nADD app /opt/app\nCOPY --from=build /venv /venv\n"
    assert sorted(buildinput.copied(text, tmp_path)) == ["app/deep/more.py", "app/main.py", "lock.txt"]


def test_a_copy_line_that_names_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        buildinput.copied("COPY gone /x\n", tmp_path)


def test_pips_own_settings_win_in_pips_own_order() -> None:
    listing = ":env:.index-url='https://env/simple'\nglobal.index-url='https://file/simple'\nglobal.cert='/ca.crt'\ninstall.timeout='9'\nuser.x='y'\n"
    assert buildinput.pip_settings(listing) == {"index-url": "https://env/simple", "cert": "/ca.crt", "timeout": "9"}


def test_a_build_reaches_the_index_as_this_machine_does_and_verifies_it() -> None:
    text = buildinput.pip_config({"index-url": "https://user:pw@mirror/simple", "cert": "/home/ada/ca.pem", "target": "/elsewhere"})
    assert "index-url = https://user:pw@mirror/simple" in text
    assert f"cert = {buildinput.MOUNTED_CA}" in text
    assert "/home/ada" not in text
    assert "target" not in text


def test_a_folder_of_wheels_is_seen_at_a_place_that_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    settings = {"find-links": f"{tmp_path} https://wheels.example"}
    assert buildinput.links(settings) == {tmp_path: "/run/build/links-0"}
    assert "find-links = /run/build/links-0 https://wheels.example" in buildinput.pip_config(settings)


def test_certificates_are_those_that_pip_uses_then_the_systems(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pem"
    mine.write_text("")
    assert buildinput.certificates({"cert": str(mine)}, {}) == mine
    assert buildinput.certificates({}, {"REQUESTS_CA_BUNDLE": str(mine)}) == mine
    assert buildinput.certificates({"cert": "/gone"}, {"SSL_CERT_FILE": str(mine)}) == mine


def test_no_dockerfile_takes_settings_of_this_machine_into_a_layer() -> None:
    for image in images.ALL:
        text = image.file.read_text()
        assert not re.search(r"^(ARG|ENV)\s+\w*(PIP|PROXY|INDEX|CERT)", text, re.MULTILINE | re.IGNORECASE), image.name
        assert "--build-arg" not in text


@pytest.fixture(scope="module")
def builder() -> images.Images:
    place = paths.locate()
    if shutil.which("buildah") is None or not place.images.is_dir():
        pytest.skip("no image was built on this machine: `make up` builds them")
    return up.assemble(place, Progress(place.logs)).images


@pytest.fixture(params=WITH_CONTRACT, ids=lambda image: image.name)
def built(request: pytest.FixtureRequest, builder: images.Images) -> Image:
    image: Image = request.param
    if not builder.built(image.name):
        pytest.skip(f"the image {image.name} is not built in its present form: `make up` builds it")
    return image


def test_a_built_image_starts_as_the_official_one_does(built: Image, builder: images.Images) -> None:
    promised, config = contract(built), builder.inspect(built.name)
    assert config["User"] == f"{promised.uid}:{promised.gid}"
    assert config["Entrypoint"] == list(promised.entrypoint)
    assert config["Cmd"] == list(promised.command)
    assert config.get("StopSignal", "SIGTERM") == promised.stop_signal
    assert config.get("WorkingDir", "/") == promised.working_folder
    environment = config["Env"]
    assert isinstance(environment, list)
    assert {f"{key}={value}" for key, value in promised.environment.items()} <= set(environment)  # pyright: ignore[reportUnknownArgumentType]


def test_a_built_image_has_its_programs_and_folders_and_nothing_of_the_machine_that_built_it(built: Image, builder: images.Images) -> None:
    promised = contract(built)
    words = [f"command -v {name} > /dev/null || echo no {name}" for name in (*promised.commands, *promised.entrypoint)]
    words += [f"test -w {folder} || echo not writable {folder}" for folder in promised.owned]
    # Where the build had its machine's files mounted, empty mount points may stay: files without content, and folders.
    mounted = "find /etc/pip.conf /etc/apt/apt.conf.d/99build /run/build -type f -size +0 2>/dev/null || true"
    printed = builder.in_container(built.name, "; ".join([*words, "id -u", "id -g", mounted]))
    assert printed.split() == [str(promised.uid), str(promised.gid)]
