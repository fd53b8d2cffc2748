"""How long the certificates of the node and of its stacks last, read from the certificates themselves."""

from __future__ import annotations

import datetime as dt
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509

from sandbox import pki
from sandbox.environment import STACK

WARN_DAYS = pki.RENEW_DAYS  # from here on the next `up` renews a leaf, the node's as well as a stack's
NODE = "the node"
AUTHORITY = "ca"
PLATFORM = "app.kubernetes.io/part-of=groundwork"  # the label of what stacks made
INSTANCE = "app.kubernetes.io/instance"


@dataclass(frozen=True)
class Certificate:
    """A certificate, where it belongs and what renews it. `end` None: what lies there cannot be read as one."""

    where: str
    name: str
    end: dt.datetime | None
    renew: str

    def days(self, now: dt.datetime) -> int | None:
        """Whole days that are left; negative where it has ended."""
        return None if self.end is None else (self.end - now).days

    def note(self, now: dt.datetime) -> str:
        """What a person should do about it; empty where that is nothing."""
        days = self.days(now)
        if days is None:
            return f"cannot be read as a certificate: {self.renew}"
        if days >= WARN_DAYS:
            return ""
        return f"{'HAS ENDED' if days < 0 else 'ends soon'}: {self.renew}"


def of_node(folder: Path) -> Iterator[Certificate]:
    """The cluster's authority and its leaves."""
    for file in sorted(folder.glob("*.crt")):
        # The authority is made once: everything in the cluster trusts this one.
        renew = "run `make clean`, then `make up`" if file.stem == AUTHORITY else "run `make up`"
        yield from _read(NODE, file.stem, file.read_bytes(), renew)


def of_secrets(secrets: Iterable[Mapping[str, object]]) -> Iterator[Certificate]:
    """The certificates in Secrets of type kubernetes.io/tls, one for each server."""
    yield from _of_objects(secrets, "tls.crt", b64decode)


def of_config_maps(maps: Iterable[Mapping[str, object]]) -> Iterator[Certificate]:
    """The authorities that stacks publish; a bundle of several is several."""
    with_authority = (item for item in maps if "ca.crt" in cast("dict[str, str]", item.get("data") or {}))
    yield from _of_objects(with_authority, "ca.crt", str.encode)


def lines(found: Iterable[Certificate], now: dt.datetime) -> list[tuple[str, str, str, str, str]]:
    """Where, which, days left, the day of the end, what to do; the one that ends first at the top."""
    ordered = sorted(found, key=lambda item: (item.end is not None, item.end or now, item.where, item.name))
    return [
        (item.where, item.name, "?" if item.end is None else str(item.days(now)), "?" if item.end is None else f"{item.end:%Y-%m-%d}", item.note(now))
        for item in ordered
    ]


def _of_objects(objects: Iterable[Mapping[str, object]], key: str, decode: Callable[[str], bytes]) -> Iterator[Certificate]:
    for item in objects:
        metadata = cast("dict[str, object]", item["metadata"])
        data = cast("dict[str, str]", item.get("data") or {})
        stack = cast("dict[str, str]", metadata.get("labels") or {}).get(INSTANCE)
        try:
            content = decode(data.get(key, ""))
        except ValueError:
            content = b""
        yield from _read(str(metadata["namespace"]), str(metadata["name"]), content, _renewal(stack))


def _renewal(stack: str | None) -> str:
    if stack is None:
        return "whoever made it renews it"
    return "run `make up`" if stack == STACK else f"run `python -m sandbox up --stack {stack}`"


def _read(where: str, name: str, content: bytes, renew: str) -> Iterator[Certificate]:
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        yield Certificate(where, name, None, renew)
        return
    for number, certificate in enumerate(found, start=1):
        yield Certificate(where, name if len(found) == 1 else f"{name} {number}", certificate.not_valid_after_utc, renew)
