"""Where a command will write: tried before hours of work, not after them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from services.errors import SettingsError


def folder(path: Path, option: str = "--out", keep: bool = True) -> None:
    """Makes the directory `path` if need be. Raises SettingsError where nothing can be written into it.

    keep: False leaves behind nothing that was not there, for a command that may yet refuse its input.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        for each in missing if not keep else ():
            each.rmdir()
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
