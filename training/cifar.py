"""CIFAR-10 from the user's own copy: zip files of pictures, or the official binary version. No torch.

In the zip files each picture is `train/CLASS/NAME.jpg` or `test/CLASS/NAME.jpg` (or .png); any number of them makes
one data set. https://www.cs.toronto.edu/~kriz/cifar.html describes the binary version.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from services.errors import InvalidInput

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
_PICTURES = (".jpg", ".png")
_MOST_BYTES = 1 << 16  # of one picture
_BINARY = {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}
_RECORD = 1 + 3 * SIDE * SIDE
_UNREADABLE = (OSError, EOFError, BadZipFile, zlib.error, ValueError, RuntimeError, SyntaxError)  # Pillow's, the last


def read(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The part "train" or "test": uint8 images [N, 32, 32, 3] and int64 labels [N], in the order of their names.

    Raises InvalidInput where the folder holds none, or a file is not what it should be.
    """
    binary = [folder / name for name in _BINARY[part]]
    found = list(_binary(binary) if all(file.is_file() for file in binary) else _zipped(folder, part))
    if not found:
        raise InvalidInput(
            f"{folder}: holds no {part} pictures of CIFAR-10; give --data with zip files of {part}/CLASS/NAME.jpg "
            f"or with {_BINARY[part][0]}"
        )
    images, labels = zip(*found, strict=True)
    return np.stack(images), np.array(labels, np.int64)


def _binary(files: list[Path]) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    for file in files:
        raw = np.fromfile(file, np.uint8)
        if len(raw) == 0 or len(raw) % _RECORD or raw[::_RECORD].max() >= len(CLASSES):
            raise InvalidInput(f"{file}: not a batch of CIFAR-10 in the binary version; download it again")
        for record in raw.reshape(-1, _RECORD):
            yield record[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0), int(record[0])


def _zipped(folder: Path, part: str) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    for file in sorted(folder.glob("*.zip")):
        try:
            with ZipFile(file) as archive:
                for name in sorted(archive.namelist()):
                    path = PurePosixPath(name)
                    if path.parts[:1] == (part,) and path.suffix in _PICTURES:
                        yield _decoded(archive, name), _label(path)
        except _UNREADABLE as error:
            raise InvalidInput(f"{file}: not a zip file of CIFAR-10 pictures ({error}); download it again") from None


def _label(path: PurePosixPath) -> int:
    if path.parent.name not in CLASSES:
        raise ValueError(f"{path} is in the folder of no class")
    return CLASSES.index(path.parent.name)


def _decoded(archive: ZipFile, name: str) -> npt.NDArray[np.uint8]:
    """Raises ValueError for anything but a picture of 32x32, before decoding it."""
    from PIL import Image

    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ValueError(f"{name} is too large for a picture of 32x32")
    with Image.open(io.BytesIO(archive.read(name))) as picture:
        if picture.size != (SIDE, SIDE):
            raise ValueError(f"{name} is {picture.size[0]}x{picture.size[1]}, not 32x32")
        return np.asarray(picture.convert("RGB"))
