"""Archives that are not what they say, in bundles and as files of labelled images."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from services import bundle, labelled
from services.errors import BundleError, InvalidInput
from training import datasets


def archive(compression: int = zipfile.ZIP_STORED, header: bytes | None = None) -> bytes:
    """Three images of 8x8 and their labels; `header` in place of what the images' array says of itself."""
    images, labels = io.BytesIO(), io.BytesIO()
    np.save(images, np.zeros((3, 8, 8), np.uint8))
    np.save(labels, np.arange(3))
    said = images.getvalue()
    if header is not None:
        said = said[:8] + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(whole := io.BytesIO(), "w", compression) as members:
        members.writestr("images.npy", said)
        members.writestr("labels.npy", labels.getvalue())
    return whole.getvalue()


def encrypted(data: bytes) -> bytes:
    """Every member is said to need a password."""
    return _flagged(data, 6, 8, 1)


def packed_by(data: bytes, method: int) -> bytes:
    return _flagged(data, 8, 10, method)


def _flagged(data: bytes, local: int, central: int, value: int) -> bytes:
    changed = bytearray(data)
    for magic, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = data.find(magic)
        while at >= 0:
            changed[at + offset : at + offset + 2] = value.to_bytes(2, "little")
            at = data.find(magic, at + 4)
    return bytes(changed)


def garbled(data: bytes) -> bytes:
    """The first member's data is noise; its sizes stay."""
    start = 30 + len("images.npy") + 10
    return data[:start] + b"\xff" * 20 + data[start + 20 :]


BROKEN: list[tuple[str, Callable[[], bytes]]] = [
    ("encrypted", lambda: encrypted(archive())),
    ("packed in an unknown way", lambda: packed_by(archive(), 97)),
    ("damaged where deflated", lambda: garbled(archive(zipfile.ZIP_DEFLATED))),
    ("damaged where packed with lzma", lambda: garbled(archive(zipfile.ZIP_LZMA))),
    ("damaged where packed with bzip2", lambda: garbled(archive(zipfile.ZIP_BZIP2))),
    ("a header that never ends", lambda: archive(header=b"{'descr': (((\n")),
    ("no dictionary for a header", lambda: archive(header=b"][\n")),
    ("cut short", lambda: archive()[:-30]),
    ("one array", lambda: archive()[30 + len("images.npy") :]),
]


def give(path: Path, data: bytes, count: int = 3) -> None:
    """Puts `data` into the bundle as its samples, with the hash that fits."""
    (path / "samples.npz").write_bytes(data)
    manifest = json.loads((path / bundle.MANIFEST).read_text())
    manifest["samples"].update(sha256=bundle.sha256(data), count=count)
    (path / bundle.MANIFEST).write_text(json.dumps(manifest))


def test_an_archive_that_is_what_it_says_is_read() -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        images, labels = labelled.read(io.BytesIO(archive(compression)), 1 << 10)
        assert (images.shape, labels.tolist()) == ((3, 8, 8), [0, 1, 2])


@pytest.mark.parametrize("make", [row[1] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_archive_is_refused_wherever_it_is_read(tiny: Path, tmp_path: Path, make: Callable[[], bytes]) -> None:
    shutil.copytree(tiny, copy := tmp_path / "copy")
    give(copy, make())
    with pytest.raises(BundleError, match=r"samples\.npz: not an \.npz"):
        bundle.load_samples(bundle.load(copy))
    with pytest.raises(InvalidInput, match=r"samples\.npz: not an \.npz"):
        datasets.read_samples(copy / "samples.npz", 4)


@pytest.mark.parametrize(("labels", "told"), [([0, 99], "from 0 to 99"), ([-1, 2], "from -1 to 2")])
def test_samples_of_classes_that_a_network_does_not_know_are_refused(
    tiny: Path, tmp_path: Path, labels: list[int], told: str
) -> None:
    shutil.copytree(tiny, copy := tmp_path / "copy")
    np.savez(written := io.BytesIO(), images=np.zeros((2, 8, 8), np.uint8), labels=np.array(labels))
    give(copy, written.getvalue(), count=2)
    with pytest.raises(BundleError, match=rf"samples\.npz: labels reach {told}; the network knows 0 to 3"):
        bundle.load_samples(bundle.load(copy))
