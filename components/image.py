"""The platform's own image: a given one, or one built from app/Dockerfile and pushed. It is always deployed by digest, never by a tag."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

DOCKERFILE = "app/Dockerfile"


@dataclass(frozen=True)
class ImageArgs:
    """`repository` and `tag` are where the image is pushed to; `context` the folder with the sources."""

    repository: str
    tag: str
    context: str = "."


def build(args: ImageArgs) -> docker.DockerBuildArgs:
    """How the image is built: app/Dockerfile with the whole repository at hand, for the builder's own architecture."""
    return docker.DockerBuildArgs(context=args.context, dockerfile=f"{args.context}/{DOCKERFILE}")


class Image(pulumi.ComponentResource):
    """The built image. Output: `reference`, the repository with the digest that the push returned."""

    reference: pulumi.Output[str]

    def __init__(self, name: str, args: ImageArgs, *, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:app:Image", name, None, opts)
        image = docker.Image(name, image_name=f"{args.repository}:{args.tag}", build=build(args), opts=pulumi.ResourceOptions(parent=self))
        self.reference = image.repo_digest
        self.register_outputs({"reference": self.reference})
