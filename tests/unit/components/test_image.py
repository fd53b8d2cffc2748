"""The platform's own image: a tag that follows from its content, a deployment by the digest that the push returned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pulumi
import pytest

from components import image
from components.image import Image, ImageArgs
from tests.unit.recording import Graph, record

ROOT = Path(__file__).resolve().parents[3]


def args(context: Path, platform: str = "linux/amd64") -> ImageArgs:
    return ImageArgs("registry.example/groundwork/runtime", "1.2.3", platform, str(context))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for folder in image.SOURCES:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text(folder)
    (tmp_path / "app" / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path


def built(context: Path, platform: str = "linux/amd64") -> Graph:
    return record(lambda: pulumi.export("reference", Image("runtime-image", args(context, platform)).reference))


def test_pods_get_the_digest_and_not_the_tag(sources: Path) -> None:
    graph = built(sources)
    assert graph.outputs["reference"] == f"{image.image_name(args(sources))}@sha256:{'0' * 64}"


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64"])
def test_it_is_built_for_the_nodes(sources: Path, platform: str) -> None:
    build = built(sources, platform).one("docker:index/image:Image", "runtime-image")["build"]
    assert build["platform"] == platform
    assert build["dockerfile"] == f"{sources}/app/Dockerfile"


def test_equal_sources_have_an_equal_tag(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "of"
    shutil.copytree(sources, copy)
    (copy / "app" / "__pycache__").mkdir()
    (copy / "app" / "__pycache__" / "code.pyc").write_text("compiled")
    assert image.image_name(args(copy)) == image.image_name(args(sources))
    assert image.image_name(args(sources)).startswith("registry.example/groundwork/runtime:1.2.3-")


@pytest.mark.parametrize("folder", image.SOURCES)
def test_other_sources_have_another_tag(sources: Path, folder: str) -> None:
    before = image.image_name(args(sources))
    (sources / folder / "code.py").write_text("changed")
    assert image.image_name(args(sources)) != before


def test_a_file_that_moves_changes_the_tag(sources: Path) -> None:
    before = image.image_name(args(sources))
    (sources / "app" / "code.py").rename(sources / "app" / "other.py")
    assert image.image_name(args(sources)) != before


def test_the_dockerfile_copies_nothing_that_the_tag_does_not_count() -> None:
    copied = [line.split() for line in (ROOT / image.DOCKERFILE).read_text().splitlines() if line.startswith("COPY ") and "--from=" not in line]
    sources = {word.rstrip("/").split("/")[0] for words in copied for word in words[1:-1] if not word.startswith("--")}
    assert sources <= set(image.SOURCES)
