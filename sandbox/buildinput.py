"""What an image build needs of this machine: the files that COPY names, and how pip and apt reach their registries.

The latter is mounted while a build runs and never becomes part of an image: it may hold addresses and passwords of the user's own.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DEFAULT_MIRROR = "http://deb.debian.org/debian"
SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")
MOUNTED_CA = "/run/build/ca.crt"
LEFT_OUT = {"__pycache__"}
# Only these of pip's settings say how to reach an index; others, such as `target`, would change what a build does.
PIP_KEYS = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries", "find-links"}


def copied(dockerfile: str, root: Path) -> dict[str, Path]:
    """The files below `root` that COPY and ADD lines name, by their path. Lines that copy from another stage name none.

    Raises FileNotFoundError where a line names something that is not there.
    """
    files: dict[str, Path] = {}
    for line in dockerfile.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].upper() not in {"COPY", "ADD"} or any(word.startswith("--from=") for word in words):
            continue
        for source in [word for word in words[1:-1] if not word.startswith("--")]:
            found = sorted(root.glob(source.strip("/") or "*"))
            if not found:
                raise FileNotFoundError(f"the Dockerfile copies {source}, which is not in {root}")
            for path in found:
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    if file.is_file() and not LEFT_OUT.intersection(file.parts) and file.suffix != ".pyc":
                        files[str(file.relative_to(root))] = file
    return files


def pip_settings(listing: str) -> dict[str, str]:
    """The output of `pip config list` as one table; what the environment says wins over what a file says."""
    settings: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        found = re.fullmatch(r"(global|install|:env:)\.([\w-]+)='(.*)'", line.strip())
        if found is None:
            continue
        level = ("global", "install", ":env:").index(found[1])
        if level >= settings.get(found[2], (-1, ""))[0]:
            settings[found[2]] = (level, found[3].replace("\\n", "\n"))
    return {key: value for key, (_, value) in settings.items()}


def pip_config(settings: Mapping[str, str]) -> str:
    """A pip.conf for the build: how to reach the index, verified with the certificates of this machine."""
    parser = configparser.RawConfigParser()
    places = {str(folder): target for folder, target in links(settings).items()}
    table = {key: " ".join(places.get(word, word) for word in value.split()) for key, value in settings.items() if key in PIP_KEYS}
    parser["global"] = table | {"cert": MOUNTED_CA}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def links(settings: Mapping[str, str]) -> dict[Path, str]:
    """The local folders among pip's `find-links`, and where a build sees them."""
    found = [Path(link) for link in settings.get("find-links", "").split() if Path(link).is_dir()]
    return {folder: f"/run/build/links-{number}" for number, folder in enumerate(found)}


def certificates(settings: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Path | None:
    """The bundle that this machine verifies package indexes with."""
    named = (settings.get("cert"), environment.get("REQUESTS_CA_BUNDLE"), environment.get("SSL_CERT_FILE"), str(SYSTEM_CA))
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def apt_proxy() -> list[str]:
    """The proxy settings of this machine's apt, as configuration lines."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, timeout=30, check=False)
    return [line for line in done.stdout.splitlines() if re.match(r'Acquire::https?::Proxy(::\S+)? "[^"]+";', line)]


def debian_mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    argv = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    for line in done.stdout.splitlines():
        origin, label, address = [*line.split(" ", 2), "", ""][:3]
        if origin == label == "Debian" and address.startswith(("http://", "https://")):
            return address.rstrip("/")
    return DEFAULT_MIRROR


def prepare(folder: Path) -> list[tuple[Path, str]]:
    """Writes what builds mount into `folder`, readable by its owner only; returns pairs of file and place in the container."""
    listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False)
    settings = pip_settings(listing.stdout)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    pip, apt = folder / "pip.conf", folder / "apt.conf"
    pip.write_text(pip_config(settings))
    apt.write_text("\n".join([*apt_proxy(), f'Acquire::https::CAInfo "{MOUNTED_CA}";']) + "\n")
    mounts = [(pip, "/etc/pip.conf"), (apt, "/etc/apt/apt.conf.d/99build")]
    if bundle := certificates(settings):
        mounts.append((bundle.resolve(), MOUNTED_CA))
    mounts += [(folder, target) for folder, target in links(settings).items()]
    return mounts
