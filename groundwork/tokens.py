"""A token in a file that is replaced when it rotates."""

from __future__ import annotations

from pathlib import Path

from groundwork.errors import InvalidSettings, UnusableToken
from groundwork.settings import read_secret


class TokenFile:
    """Reads the file again when its identity or time changes. `setting` is what messages call it, such as `consul.token_file`."""

    def __init__(self, path: Path | None, setting: str) -> None:
        self._path = path
        self._setting = setting
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def read(self) -> str:
        """The token as it is now, without blanks and newlines around it; empty without a file.

        Raises InvalidSettings where the file cannot be read and UnusableToken where it cannot be a token.
        """
        if self._path is None:
            return ""
        try:
            stat = self._path.stat()
        except OSError as error:
            raise InvalidSettings(f"{self._setting} {self._path} cannot be read ({error.strerror}): is the Secret mounted?") from None
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen != self._seen:
            self._token, self._seen = self._text(self._path), seen
        return self._token

    def forget(self) -> None:
        """Read again at the next use, whatever the file's time says."""
        self._seen = None

    def _text(self, path: Path) -> str:
        unusable = UnusableToken(f"{self._setting} {path} holds characters that no token has: write the token as plain text")
        try:
            token = read_secret(path).get_secret_value().strip()
        except UnicodeDecodeError:
            raise unusable from None
        if not (token.isascii() and token.isprintable()):
            raise unusable
        return token
