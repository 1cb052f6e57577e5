"""Bearer tokens of clients, from a file: one per line, read again when the file changes."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from services import log
from services.errors import SettingsError

MIN_CHARACTERS = 16
"""Below this a token could be guessed over the network."""
_WARNING = 30
_SCHEME = "bearer "


class Tokens:
    """The tokens that are good now. None of them is ever logged, printed or compared in a time that depends on it."""

    def __init__(self, path: Path):
        """Raises SettingsError for a file that cannot be read, holds no token, or one that is too short."""
        self._path = path
        self._seen = self._stamp()
        self._digests = _read(path)
        if not self._digests:
            raise SettingsError(f"token_file: {path} holds no token; put one on each line")

    def accept(self, authorization: str) -> bool:
        """Whether `authorization`, as in the header of that name, carries one of the tokens."""
        self._refresh()
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given, found = _digest(authorization[len(_SCHEME) :].strip()), False
        for digest in self._digests:  # all of them, whichever it is
            found |= hmac.compare_digest(digest, given)
        return found

    def _refresh(self) -> None:
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            self._digests = _read(self._path)
        except SettingsError as error:
            log.event("tokens_not_taken", _WARNING, message=f"{error}; those before stay in use")
        else:
            log.event("tokens_taken", count=len(self._digests))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read_one(path: Path) -> str:
    """The first token in `path`, for a client. Raises SettingsError where there is none."""
    tokens = _lines(path)
    if not tokens:
        raise SettingsError(f"token_file: {path} holds no token")
    return tokens[0]


def _read(path: Path) -> tuple[bytes, ...]:
    tokens = _lines(path)
    if any(len(token) < MIN_CHARACTERS for token in tokens):
        raise SettingsError(f"token_file: {path} holds a token of fewer than {MIN_CHARACTERS} characters")
    return tuple(map(_digest, tokens))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise SettingsError(f"token_file: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"token_file: {path} holds something else than letters, digits and punctuation") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _digest(token: str) -> bytes:
    """Of equal length for all tokens, so that comparing does not tell theirs."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
