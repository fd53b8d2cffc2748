"""The last known good state of the back end's trees in a file, so that a service can start while the back end is away.

It holds the bytes of the trees and nothing else: secrets are references there, so none is ever written.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from groundwork.backends.base import ConfigEntry

log = logging.getLogger(__name__)

VERSION: Final = 1
Trees = dict[str, tuple[ConfigEntry, ...]]


class _File(msgspec.Struct):
    version: int
    trees: dict[str, tuple[ConfigEntry, ...]]


def save(path: Path, trees: Mapping[str, tuple[ConfigEntry, ...]]) -> None:
    """Replace the file as a whole, readable by its owner alone. A full disk is no reason to fail: it is logged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(_File(VERSION, dict(trees))))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning("the last known good configuration could not be written to %s: %s", path, error.strerror)


def load(path: Path, wanted: tuple[str, ...]) -> Trees:
    """The trees of the file that are wanted; none where it does not exist or cannot be read."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("the last known good configuration in %s is of no use: %s", path, type(error).__name__)
        return {}
    return {prefix: entries for prefix, entries in found.trees.items() if prefix in wanted} if found.version == VERSION else {}
