"""The images that the node runs: what each one promises, how its tag follows from its inputs, how it is built and brought to the node.

The promises are those of the official images that the components are written for; the tests hold the built images against them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sandbox import buildinput
from sandbox.errors import SandboxError
from sandbox.paths import REPO, Paths
from sandbox.progress import Progress, Step

FOLDER = Path(__file__).resolve().parent / "images"
REGISTRY = "localhost/groundwork"
SUITE = "trixie"
KEY_LENGTH = 12
NETWORK_FIX = "see whether apt reaches its mirrors (`apt-get update`) and run the command again: finished images are kept"


@dataclass(frozen=True)
class Contract:
    """What an image promises to the pod that runs it. `commands` are on PATH; `owned` are folders that `uid`:`gid` may write to."""

    uid: int
    gid: int
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    commands: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    working_folder: str = "/"


@dataclass(frozen=True)
class Image:
    """An image to build. `base` names another one of this table; `tool` is a program that goes into it.

    `sources` are further files of the repository, read from the Dockerfile's own COPY lines.
    """

    name: str
    version: str
    base: str | None
    contract: Contract | None = None
    tool: str | None = None
    dockerfile: Path | None = None

    @property
    def file(self) -> Path:
        """The Dockerfile."""
        return self.dockerfile or FOLDER / self.name / "Dockerfile"


_ENTRYPOINT = ("docker-entrypoint.sh",)

ALL: tuple[Image, ...] = (
    Image("debian", "13", None),
    Image("python", "3.13", "debian"),
    Image("pause", "1", None, tool="pause"),
    Image(
        "postgres",
        "17",
        "debian",
        Contract(
            999,
            999,
            _ENTRYPOINT,
            ("postgres",),
            environment={"PGDATA": "/var/lib/postgresql/data", "LANG": "en_US.utf8", "PG_MAJOR": "17"},
            commands=("postgres", "initdb", "psql", "pg_isready", "pg_dump", "pg_ctl"),
            owned=("/var/lib/postgresql/data", "/var/run/postgresql"),
            stop_signal="SIGINT",
        ),
    ),
    Image(
        "redis",
        "8",
        "debian",
        Contract(999, 999, _ENTRYPOINT, ("redis-server",), commands=("redis-server", "redis-cli"), owned=("/data",), working_folder="/data"),
    ),
    Image(
        "rabbitmq",
        "4.0",
        "debian",
        Contract(
            999,
            999,
            _ENTRYPOINT,
            ("rabbitmq-server",),
            environment={"HOME": "/var/lib/rabbitmq", "RABBITMQ_DATA_DIR": "/var/lib/rabbitmq"},
            commands=("rabbitmq-server", "rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-plugins"),
            owned=("/var/lib/rabbitmq", "/etc/rabbitmq/conf.d"),
        ),
    ),
    Image(
        "consul",
        "1.22",
        "debian",
        Contract(
            100,
            1000,
            _ENTRYPOINT,
            ("agent", "-dev", "-client", "0.0.0.0"),  # noqa: S104 - the official image's default; the platform passes its own
            commands=("consul",),
            owned=("/consul/data", "/consul/config"),
        ),
        tool="consul",
    ),
    Image("runtime", "1", "python", dockerfile=REPO / "app" / "Dockerfile"),
)

RUNTIME_UID = 10001


def get(name: str) -> Image:
    """The image `name` of the table."""
    return next(image for image in ALL if image.name == name)


@dataclass(frozen=True)
class Source:
    """A file of a build, as it was when it was read: the tag and the image are made from the same bytes."""

    content: bytes
    executable: bool


def context(image: Image) -> dict[str, Source]:
    """The files of the build, by their path in it: the Dockerfile's neighbours, or what its COPY lines name in the repository."""
    if image.dockerfile is None:
        files = {file.name: file for file in image.file.parent.iterdir() if file.is_file()}
    else:
        files = {"Dockerfile": image.file, **buildinput.copied(image.file.read_text(), REPO)}
    return {path: Source(file.read_bytes(), os.access(file, os.X_OK)) for path, file in sorted(files.items())}


def tag(image: Image, sources: Mapping[str, Source], base: str | None, tool: str | None) -> str:
    """The image's name and tag; the tag changes with everything that goes into it: files, base image and key of the built tool."""
    digest = sha256()
    for path, source in sorted(sources.items()):
        digest.update(path.encode() + b"\0" + (b"x" if source.executable else b"-") + source.content + b"\0")
    digest.update(json.dumps([base, tool]).encode())
    return f"{REGISTRY}/{image.name}:{image.version}-{digest.hexdigest()[:KEY_LENGTH]}"


class Images:
    """The images of one sandbox."""

    def __init__(self, paths: Paths, command: Callable[[str], Path], tool_key: Callable[[str], str]) -> None:
        self._paths = paths
        self._command = command
        self._tool_key = tool_key
        self._sources: dict[str, dict[str, Source]] = {}

    def reference(self, name: str) -> str:
        """The reference of the image `name`, built or not."""
        image = get(name)
        base = None if image.base is None else self.reference(image.base)
        return tag(image, self._context(name), base, None if image.tool is None else self._tool_key(image.tool))

    def _context(self, name: str) -> dict[str, Source]:
        """Read once, so that a file that is edited meanwhile changes the next image and not half of this one."""
        if name not in self._sources:
            self._sources[name] = context(get(name))
        return self._sources[name]

    def provide(self, names: Iterable[str], progress: Progress) -> None:
        """Builds and imports those of `names` that the node does not have.

        Raises StepFailed with the builder's last words.
        """
        there = self.imported()
        wanted = {name: self.reference(name) for name in names}
        for name, full in wanted.items():
            if full in there:
                continue
            with progress.step(f"image {name}") as step:
                self._build(get(name), step)
                self._import(full, step)
                step.outcome = full

    def imported(self) -> frozenset[str]:
        """The references that the node has."""
        argv = ["ctr", "--address", str(self._paths.containerd_socket), "--namespace", "k8s.io", "images", "list", "--quiet"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise SandboxError(f"containerd does not answer: {done.stderr.strip()}", fix="see `make status`; `make down` and `make up` restart it")
        return frozenset(done.stdout.split())

    def prune(self, used: frozenset[str], progress: Progress) -> None:
        """Removes images of earlier content that nothing of `used` names, from the node and from the builder."""
        keep = used | {self.reference(image.name) for image in ALL}
        on_node = [name for name in self.imported() if name.startswith(f"{REGISTRY}/") and name not in keep]
        listing = subprocess.run(
            [*self._buildah("images", "--format", "{{.Name}}:{{.Tag}}")], capture_output=True, text=True, timeout=60, check=False
        ).stdout.split()
        built = [name for name in listing if name.startswith(f"{REGISTRY}/") and name not in keep]
        if not on_node and not built:
            return
        with progress.step("remove images of earlier content") as step:
            fix = "harmless: the disk keeps them; `make clean` removes all"
            if on_node:
                address = ["--address", str(self._paths.containerd_socket), "--namespace", "k8s.io"]
                step.run(["ctr", *address, "images", "remove", *on_node], fix=fix, timeout=120)
            if built:
                step.run([*self._buildah("rmi"), *built], fix=fix, timeout=300)
            step.outcome = f"{len(set(on_node) | set(built))} images"

    def inspect(self, name: str) -> dict[str, object]:
        """The built image's configuration, as the OCI specification has it."""
        argv = [*self._buildah("inspect", "--type", "image"), self.reference(name)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        config: dict[str, object] = json.loads(done.stdout)["OCIv1"]["config"]
        return config

    def built(self, name: str) -> bool:
        """Whether the builder has the image in its present form."""
        if shutil.which("buildah") is None or not self._paths.images.is_dir():
            return False
        argv = [*self._buildah("images", "--quiet"), self.reference(name)]
        return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0

    def in_container(self, name: str, script: str) -> str:
        """What `script` prints in a container of the image, run as the image's own user without the node.

        Raises CalledProcessError where it fails.
        """
        container = self._output("from", "--pull-never", self.reference(name))
        try:
            return self._output("run", "--isolation", "chroot", container, "--", "sh", "-ec", script)
        finally:
            self._output("rm", container)

    def _output(self, *words: str) -> str:
        done = subprocess.run(self._buildah(*words), capture_output=True, text=True, timeout=120, check=True)
        return done.stdout.strip()

    def _build(self, image: Image, step: Step) -> None:
        if self.built(image.name):
            return
        if image.base is not None:
            self._build(get(image.base), step)
        step.note = f"building {image.name}"
        folder = self._paths.build / f"image-{image.name}"
        shutil.rmtree(folder, ignore_errors=True)
        for path, source in self._context(image.name).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.content)
            target.chmod(0o755 if source.executable else 0o644)
        if image.tool is not None:
            shutil.copyfile(self._command(image.tool).resolve(), folder / image.tool)
            (folder / image.tool).chmod(0o755)
        if image.name == "debian":
            os.link(self._base_system(step), folder / "base.tar")
        base = [] if image.base is None else ["--build-arg", f"BASE={self.reference(image.base)}"]
        hosts = [] if image.base is None else buildinput.prepare(self._paths.build / "host")
        step.run(
            [
                *self._buildah("build", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers"),
                *(word for source, target in hosts for word in ("--volume", f"{source}:{target}:ro")),
                *base,
                "--tag",
                self.reference(image.name),
                "--file",
                folder / "Dockerfile",
                folder,
            ],
            fix=NETWORK_FIX,
            timeout=1800,
        )
        shutil.rmtree(folder)

    def _base_system(self, step: Step) -> Path:
        tar = self._paths.images / f"{SUITE}.tar"
        if not tar.is_file():
            tar.parent.mkdir(parents=True, exist_ok=True)
            unfinished = tar.with_suffix(".part.tar")
            unfinished.unlink(missing_ok=True)
            step.note = f"Debian {SUITE}"
            options = [f"--aptopt={line}" for line in buildinput.apt_proxy()]
            step.run(["mmdebstrap", "--variant=minbase", *options, SUITE, unfinished, buildinput.debian_mirror()], fix=NETWORK_FIX, timeout=1200)
            unfinished.rename(tar)
        return tar

    def _import(self, full: str, step: Step) -> None:
        step.note = "bringing it to the node"
        archive = self._paths.build / "image.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)
        fix = "run the command again; when it stays, `make down` and `make up`"
        step.run([*self._buildah("push"), full, f"docker-archive:{archive}:{full}"], fix=fix, timeout=600)
        address = ["--address", str(self._paths.containerd_socket), "--namespace", "k8s.io"]
        step.run(["ctr", *address, "images", "import", archive], fix=fix, timeout=600)
        archive.unlink()

    def _buildah(self, command: str, *words: str) -> list[str]:
        storage = ["--root", str(self._paths.images / "storage"), "--runroot", str(self._paths.images / "run"), "--storage-driver", "overlay"]
        # In a mount namespace of its own, buildah leaves no mount behind, however it ends.
        return ["unshare", "--mount", "buildah", *storage, command, *words]
