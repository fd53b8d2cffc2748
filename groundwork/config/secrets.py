"""References to secrets: `{"$secret": "name"}` in the configuration stands for a file that is mounted beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import SecretStr

from groundwork.config.codec import Json, is_key
from groundwork.errors import InvalidConfig, InvalidSettings
from groundwork.settings import read_secret

REFERENCE: Final = "$secret"
MAX_SECRET: Final = 64 * 1024

Resolved = None | bool | int | float | str | SecretStr | list["Resolved"] | dict[str, "Resolved"]


def reference(name: str) -> Json:
    """What stands in the configuration for a secret."""
    return {REFERENCE: name}


class SecretsFolder:
    """A folder of mounted secrets. Names are paths below it; links may lead anywhere within it, as Kubernetes' mounts do."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, name: str) -> SecretStr:
        """The secret as it is on disk now.

        Raises InvalidConfig that names it where it cannot be had.
        """
        if self._folder is None:
            raise InvalidConfig(f"secret {name!r} is referred to, but no folder of secrets is configured: set secrets_dir")
        if not is_key(name):
            raise InvalidConfig(f"secret {name!r:.80} is no name of a secret")
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise InvalidConfig(f"secret {name!r} lies outside of the folder of secrets")
        try:
            if path.stat().st_size > MAX_SECRET:
                raise InvalidConfig(f"secret {name!r} is larger than {MAX_SECRET} bytes")
            return read_secret(path)
        except OSError as error:
            raise InvalidConfig(f"secret {name!r} cannot be read ({error.strerror}): is it mounted?") from None
        except (InvalidSettings, UnicodeDecodeError):
            raise InvalidConfig(f"secret {name!r} cannot be read as text") from None

    def resolve(self, value: Json) -> Resolved:
        """The value with each reference replaced by its secret, wrapped so that it does not show when printed.

        Raises InvalidConfig where a reference leads nowhere.
        """
        if isinstance(value, dict):
            name = value.get(REFERENCE)
            if REFERENCE in value:
                if len(value) != 1 or not isinstance(name, str):
                    raise InvalidConfig(f'a reference to a secret is {{"{REFERENCE}": "name"}} and nothing else')
                return self.read(name)
            return {key: self.resolve(below) for key, below in value.items()}
        if isinstance(value, list):
            return [self.resolve(below) for below in value]
        return value

    def names(self) -> tuple[str, ...]:
        """The names of all secrets below the folder, hidden files left out."""
        if self._folder is None or not self._folder.is_dir():
            return ()
        paths = (path.relative_to(self._folder) for path in self._folder.rglob("*") if path.is_file())
        return tuple(sorted(str(path) for path in paths if is_key(str(path)) and not any(part.startswith(".") for part in path.parts)))


def stamp(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Something that differs when a file below the folder was changed, added or removed."""
    if folder is None or not folder.is_dir():
        return ()
    found: list[tuple[str, int, int]] = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
        except OSError:
            continue  # replaced at this moment; the next look sees the new one
        if path.is_file():
            found.append((str(path), stat.st_mtime_ns, stat.st_ino))
    return tuple(found)
