"""The platform's own image: built from app/Dockerfile, pushed under a tag that follows from its content, and deployed by digest."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pulumi
import pulumi_docker as docker

DOCKERFILE = "app/Dockerfile"
SOURCES = ("app", "demo", "groundwork")  # what the Dockerfile copies, and all that .dockerignore lets through
LEFT_OUT = {"__pycache__"}


@dataclass(frozen=True)
class ImageArgs:
    """`repository` is where the image is pushed to, `version` begins its tag, `platform` is that of the nodes, such as linux/amd64."""

    repository: str
    version: str
    platform: str
    context: str = "."


def content(context: str) -> str:
    """A digest of all that the image is built from: equal sources have equal tags, and a tag is never moved."""
    root, digest = Path(context), sha256()
    for file in sorted(file for source in SOURCES for file in (root / source).rglob("*")):
        if file.is_file() and not LEFT_OUT.intersection(file.parts):
            digest.update(f"{file.relative_to(root)}\0{sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def image_name(args: ImageArgs) -> str:
    """Where the image is pushed to: repository and tag."""
    return f"{args.repository}:{args.version}-{content(args.context)}"


def build(args: ImageArgs) -> docker.DockerBuildArgs:
    """How the image is built: app/Dockerfile with the repository's sources at hand, for the nodes' architecture."""
    return docker.DockerBuildArgs(context=args.context, dockerfile=f"{args.context}/{DOCKERFILE}", platform=args.platform)


class Image(pulumi.ComponentResource):
    """The built image. Output: `reference`, the repository with the digest that the push returned."""

    reference: pulumi.Output[str]

    def __init__(self, name: str, args: ImageArgs, *, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:app:Image", name, None, opts)
        image = docker.Image(name, image_name=image_name(args), build=build(args), opts=pulumi.ResourceOptions(parent=self))
        self.reference = image.repo_digest
        self.register_outputs({"reference": self.reference})
