"""Where a command will write: tried before hours of work, not after them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from services.errors import SettingsError


def folder(path: Path, option: str = "--out") -> None:
    """Makes the directory `path` if need be. Raises SettingsError where nothing can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SettingsError(f"{option} {path}: {error.strerror or error}; give another directory") from None


def file(path: Path | None, option: str = "--json") -> None:
    """Makes the directory of the file `path`, if one is wanted. Raises SettingsError where it cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise SettingsError(f"{option} {path}: Is a directory; give a file")
    if not path.exists():
        folder(path.parent, option)
