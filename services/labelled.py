"""Labelled images in an .npz, which may come from anybody: read, or refused with one kind of error."""

from __future__ import annotations

import lzma
import struct
import zlib
from tokenize import TokenError
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]

_HEADERS_BYTES = 4096
_UNREADABLE = (
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RuntimeError,  # a member that is encrypted, or packed in a way that Python does not know
    TokenError,
    BadZipFile,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""What numpy and zipfile raise for archives that are not what they say."""


def read(source: BinaryIO, most_bytes: int | None = None) -> tuple[_Array, _Array]:
    """`images` and `labels` of an .npz, unpacked only where all of it takes at most `most_bytes`, None: any number.

    Raises ValueError for what is no such file.
    """
    try:
        with np.load(source, allow_pickle=False) as archive:
            if most_bytes is not None:
                _check_unpacked(archive.zip, most_bytes)
            return archive["images"], archive["labels"]
    except _UNREADABLE as error:
        raise ValueError(f"not an .npz with images and labels: {type(error).__name__}") from None


def _check_unpacked(archive: ZipFile, most: int) -> None:
    """Raises ValueError for arrays larger than they may be: zeros take a thousandth of their size in the file."""
    if sum(entry.file_size for entry in archive.infolist()) > most + _HEADERS_BYTES:
        raise ValueError("larger than the manifest says")
